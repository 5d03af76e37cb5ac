"""The language side against transformers' T5 and mT5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.checkpoint import hf
from vpd_jax.decode import loop
from vpd_jax.losses import plain
from vpd_jax.models import attention
from vpd_jax.models.pali import hf_config, params

FAMILIES = ("T5 1.0", "T5 v1.1, Flan-T5", "UL2", "mT5")
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, pali_reference, tmp_path_factory):
  """(family, folder, reference model, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("t5") / "model"
  reference = pali_reference.write_t5(folder, request.param)
  return request.param, folder, reference, *pali_reference.ours(text=folder)


def prompts(rows, length, seed=1):
  """int32[rows, length], padded, each row of another length."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(2, 96, (rows, length)).astype(np.int32)
  lengths = rng.integers(length // 3, length + 1, rows)
  return ids * (np.arange(length)[None] < lengths[:, None])


def logits(model, prompt, target):
  return model.logits(model.decode(*model.encode(None, prompt), target))


def reference_outputs(reference, prompt, target):
  import torch

  prompt = torch.tensor(prompt).long()
  labels = torch.tensor(target).long()
  # The reference shifts labels itself, and leaves -100 out of its loss.
  return reference(
    input_ids=prompt,
    attention_mask=(prompt != 0).long(),
    labels=labels.masked_fill(labels == 0, -100),
  )


def test_logits(pair, references, compare):
  family, _, reference, graphdef, named, _ = pair
  # Longer than the distance from which all share a bucket.
  prompt, target = prompts(3, 200), prompts(3, 140, seed=2)
  theirs = reference_outputs(reference, prompt, target).logits
  theirs = theirs.detach().numpy()
  assert 0.5 < theirs.std() < 2, "logits are not of unit scale"
  found = jax.jit(
    lambda a: logits(references.merge(graphdef, a), prompt, target)
  )
  difference = np.abs(found(named) - theirs)
  difference = difference[target != 0].max()
  compare(family, references.VERSION, "logits", difference, 2e-4)


def test_head_is_tied_where_it_should_be(pair):
  family, _, reference, _, named, _ = pair
  is_tied = np.array_equal(
    reference.lm_head.weight.detach(), reference.shared.weight.detach()
  )
  assert is_tied == (family == "T5 1.0") == ("head/kernel" not in named)


def test_gradients(pair, references, compare):
  family, _, reference, graphdef, named, options = pair
  prompt, target = prompts(4, 24), prompts(4, 12, seed=2)
  reference.zero_grad()
  reference_outputs(reference, prompt, target).loss.backward()
  table = params.table(options, "text")
  theirs = references.their_gradients(reference, table, named)

  def loss(model):
    log_probs = jax.nn.log_softmax(logits(model, prompt, target))
    nats = -jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    return jnp.sum(nats * (target != 0)) / np.sum(target != 0)

  ours = references.gradients(loss, graphdef, named)
  worst = references.worst_gradient(ours, theirs)
  compare(family, references.VERSION, "gradients, relative", worst, 1e-3)


def test_xent_is_the_references(pair, references):
  """On targets of one length; elsewhere ours is a mean over examples."""
  _, _, reference, graphdef, named, _ = pair
  prompt = prompts(4, 24)
  target = np.random.default_rng(3).integers(1, 96, (4, 9)).astype(np.int32)
  theirs = float(reference_outputs(reference, prompt, target).loss.detach())
  scores = logits(references.merge(graphdef, named), prompt, target)
  nats, examples = plain.per_example_xent(
    scores, jnp.asarray(target), jnp.ones(target.shape)
  )
  np.testing.assert_allclose(nats / examples, theirs, rtol=1e-5)


def test_greedy_generation(pair, references, compare):
  import torch

  family, _, reference, graphdef, named, _ = pair
  prompt, tokens = prompts(50, 20), 24
  theirs = reference.generate(
    input_ids=torch.tensor(prompt).long(),
    attention_mask=torch.tensor(prompt != 0).long(),
    max_new_tokens=tokens,
    do_sample=False,
    num_beams=1,
    use_cache=False,  # 5.23 sizes its cache by the encoder's depth.
  ).numpy()[:, 1:]
  theirs = np.pad(theirs, ((0, 0), (0, tokens - theirs.shape[1])))
  ours = jax.jit(
    lambda a: loop.greedy(
      references.merge(graphdef, a),
      None,
      jnp.asarray(prompt),
      max_new_tokens=tokens,
      eos_id=1,
    )
  )(named)
  assert len(np.unique(theirs)) > 20, "too few tokens to tell models apart"
  compare(
    family,
    references.VERSION,
    "greedy, tokens of 50 prompts that differ",
    np.sum(np.asarray(ours) != theirs),
    0,
  )


def test_export_is_the_file_that_was_imported(
  pair, references, pali_reference, compare, tmp_path
):
  family, folder, reference, _, named, options = pair
  table = params.table(options, "text")
  config = hf_config.config(options, "text", rows=96)
  references.export(tmp_path / "out", config, table, named)
  original = references.arrays(folder)
  exported = references.arrays(tmp_path / "out")
  assert exported.keys() == original.keys()
  for name, array in exported.items():
    np.testing.assert_array_equal(array, original[name], err_msg=name)
  again = hf_config.options(hf.read_config(tmp_path / "out"))
  assert again == {key: options[key] for key in again}

  import transformers

  loaded = references.load(
    transformers.T5ForConditionalGeneration,
    tmp_path / "out",
    pali_reference.TIED,
  )
  prompt, target = prompts(3, 20), prompts(3, 8, seed=2)
  a = reference_outputs(reference, prompt, target).logits
  b = reference_outputs(loaded, prompt, target).logits
  compare(
    family,
    references.VERSION,
    "logits of our export there",
    float((a - b).detach().abs().max()),
    0,
  )


@pytest.mark.parametrize("is_causal", [False, True])
def test_buckets_of_every_distance(is_causal):
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  distance = np.arange(-600, 601)
  theirs = T5Attention._relative_position_bucket(
    torch.tensor(distance), bidirectional=not is_causal
  )
  ours = attention.relative_bucket(
    jnp.asarray(distance, jnp.int32),
    is_causal=is_causal,
    buckets=32,
    max_distance=128,
  )
  np.testing.assert_array_equal(ours, theirs.numpy())
