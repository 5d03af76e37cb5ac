"""The whole composition against SigLIP, a projection and T5 put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.decode import loop

FAMILY = "PaLI: SigLIP + T5 v1.1"
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def pair(pali_reference, tmp_path_factory):
  """(image tower, T5, our graphdef, arrays)."""
  folder = tmp_path_factory.mktemp("pali")
  tower = pali_reference.write_siglip(folder / "image")
  t5 = pali_reference.write_t5(folder / "text", "T5 v1.1, Flan-T5", seed=1)
  graphdef, named, _ = pali_reference.ours(folder / "text", folder / "image")
  return tower, t5, graphdef, named


@pytest.fixture(scope="module")
def inputs():
  """(uint8[50, 42, 42, 3], int32[50, 10])."""
  rng = np.random.default_rng(7)
  images = rng.integers(0, 256, (50, 42, 42, 3)).astype(np.uint8)
  prompt = rng.integers(2, 96, (50, 10)).astype(np.int32)
  return images, prompt * (np.arange(10) < rng.integers(3, 11, (50, 1)))


def reference_inputs(tower, t5, named, images, prompt, pali_reference):
  """inputs_embeds and attention_mask: image tokens before the prompt's."""
  import torch

  kernel, bias = (
    torch.tensor(np.asarray(named[f"projection/{part}"]))
    for part in ("kernel", "bias")
  )
  tokens = (
    tower(pali_reference.pixels(images)).last_hidden_state @ kernel + bias
  )
  prompt = torch.tensor(prompt).long()
  text = t5.get_input_embeddings()(prompt)
  mask = torch.cat([torch.ones(tokens.shape[:2]), (prompt != 0).float()], 1)
  return dict(
    inputs_embeds=torch.cat([tokens, text], 1), attention_mask=mask.long()
  )


def test_logits(pair, inputs, references, pali_reference, compare):
  import torch

  tower, t5, graphdef, named = pair
  images, prompt = (x[:4] for x in inputs)
  target = np.random.default_rng(8).integers(2, 96, (4, 12)).astype(np.int32)
  given = reference_inputs(tower, t5, named, images, prompt, pali_reference)
  theirs = t5(**given, labels=torch.tensor(target).long()).logits
  ours = jax.jit(
    lambda a: references.merge(graphdef, a)(images, prompt, target)
  )
  difference = np.abs(ours(named) - theirs.detach().numpy()).max()
  compare(FAMILY, references.VERSION, "logits", difference, 2e-4)


def test_greedy_generation(pair, inputs, references, pali_reference, compare):
  tower, t5, graphdef, named = pair
  images, prompt = inputs
  given = reference_inputs(tower, t5, named, images, prompt, pali_reference)
  tokens = 24
  theirs = t5.generate(
    **given,
    max_new_tokens=tokens,
    do_sample=False,
    num_beams=1,
    use_cache=False,
  ).numpy()[:, 1:]
  theirs = np.pad(theirs, ((0, 0), (0, tokens - theirs.shape[1])))
  ours = jax.jit(
    lambda a: loop.greedy(
      references.merge(graphdef, a),
      images,
      jnp.asarray(prompt),
      max_new_tokens=tokens,
      eos_id=1,
    )
  )(named)
  assert len(np.unique(theirs)) > 20, "too few tokens to tell models apart"
  compare(
    FAMILY,
    references.VERSION,
    "greedy, tokens of 50 prompts that differ",
    np.sum(np.asarray(ours) != theirs),
    0,
  )
