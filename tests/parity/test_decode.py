"""Beam search and the distributions drawn from, against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.decode import beam, loop, sampling

FAMILY = "decoding"
ROWS, TOKENS = 16, 10
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def pair(pali_reference, tmp_path_factory):
  """(reference T5, our graphdef and arrays of the same weights)."""
  folder = tmp_path_factory.mktemp("t5") / "model"
  reference = pali_reference.write_t5(folder, "T5 v1.1, Flan-T5")
  return reference, *pali_reference.ours(text=folder)[:2]


@pytest.fixture(scope="module")
def prompt():
  """int32[ROWS, 12], padded, each row of another length."""
  rng = np.random.default_rng(5)
  ids = rng.integers(2, 96, (ROWS, 12)).astype(np.int32)
  return ids * (np.arange(12)[None] < rng.integers(3, 13, (ROWS, 1)))


@pytest.fixture(scope="module")
def eos_id(pair, prompt, references):
  """A token that the likeliest targets of about half of the rows have."""
  _, graphdef, named = pair
  tokens = np.asarray(
    jax.jit(
      lambda a: loop.greedy(
        references.merge(graphdef, a),
        None,
        prompt,
        max_new_tokens=TOKENS,
        eos_id=-1,
      )
    )(named)
  )
  share = [(tokens == i).any(axis=1).mean() for i in range(96)]
  found = int(np.argmin(np.abs(np.array(share) - 0.5)))
  assert 0.2 < share[found] < 0.8, share[found]
  return found


def their_beams(reference, prompt, eos_id, **options):
  """(tokens int[B, n, T] up to the eos, then 0; scores float[B, n])."""
  import torch

  out = reference.generate(
    input_ids=torch.tensor(prompt).long(),
    attention_mask=torch.tensor(prompt != 0).long(),
    max_new_tokens=TOKENS,
    do_sample=False,
    eos_token_id=eos_id,
    output_scores=True,
    return_dict_in_generate=True,
    # Their cache has as many layers as the encoder; the decoder has more.
    use_cache=False,
    **options,
  )
  count = options["num_return_sequences"]
  tokens = out.sequences.numpy()[:, 1:]
  tokens = np.pad(tokens, ((0, 0), (0, TOKENS - tokens.shape[1])))
  # They fill up with the eos where the padding has id 0.
  is_after = np.cumsum(tokens == eos_id, axis=1) - (tokens == eos_id) > 0
  tokens = np.where(is_after, 0, tokens).reshape(len(prompt), count, TOKENS)
  scores = out.sequences_scores.numpy().reshape(len(prompt), count)
  return tokens, scores


@pytest.mark.parametrize(
  "length_penalty, early_stopping",
  [
    (-1.0, "never"),
    (0.0, False),
    (1.0, False),
    (1.0, True),
    (1.0, "never"),
    (2.5, False),
    (2.5, "never"),
  ],
)
def test_beam_search(
  pair, prompt, eos_id, references, compare, length_penalty, early_stopping
):
  reference, graphdef, named = pair
  tokens, scores = their_beams(
    reference,
    prompt,
    eos_id,
    num_beams=4,
    num_return_sequences=3,
    length_penalty=length_penalty,
    early_stopping=early_stopping,
  )
  ours = jax.jit(
    lambda a: beam.search(
      references.merge(graphdef, a),
      None,
      prompt,
      max_new_tokens=TOKENS,
      eos_id=eos_id,
      beams=4,
      returned=3,
      length_penalty=length_penalty,
      early_stopping=early_stopping,
    )
  )(named)
  has_eos = (tokens == eos_id).any(axis=2)
  assert 0.05 < has_eos.mean(), "no hypothesis ends by itself"
  if length_penalty > 0:
    assert has_eos.mean() < 0.95, "no hypothesis is cut"
  case = f"length_penalty={length_penalty}, early_stopping={early_stopping}"
  compare(
    FAMILY,
    references.VERSION,
    f"beam scores, {case}",
    np.abs(np.asarray(ours.scores) - scores).max(),
    1e-4,
  )
  compare(
    FAMILY,
    references.VERSION,
    f"beam tokens that differ, {case}",
    np.sum(np.asarray(ours.tokens) != tokens),
    0,
  )
  np.testing.assert_array_equal(
    ours.lengths,
    np.where(has_eos, (tokens == eos_id).argmax(axis=2) + 1, TOKENS),
  )


def test_beam_search_of_forbidden_tokens_and_a_least_length(
  pair, prompt, eos_id, references, compare
):
  reference, graphdef, named = pair
  plain, _ = their_beams(
    reference, prompt, eos_id, num_beams=4, num_return_sequences=4
  )
  # Among what is forbidden are tokens that were chosen.
  forbidden = tuple(int(i) for i in np.unique(plain[plain > 1])[::3])
  forbidden = tuple(i for i in forbidden if i != eos_id)
  tokens, scores = their_beams(
    reference,
    prompt,
    eos_id,
    num_beams=4,
    num_return_sequences=4,
    suppress_tokens=list(forbidden),
    min_new_tokens=3,
  )
  assert (plain[..., :3] == eos_id).any() and (tokens == eos_id).any()
  ours = jax.jit(
    lambda a: beam.search(
      references.merge(graphdef, a),
      None,
      prompt,
      max_new_tokens=TOKENS,
      eos_id=eos_id,
      beams=4,
      returned=4,
      forbidden_ids=forbidden,
      min_new_tokens=3,
    )
  )(named)
  case = "with forbidden tokens and a least length"
  difference = np.abs(np.asarray(ours.scores) - scores).max()
  compare(FAMILY, references.VERSION, f"beam scores, {case}", difference, 1e-4)
  wrong = np.sum(np.asarray(ours.tokens) != tokens)
  compare(FAMILY, references.VERSION, f"beam tokens, {case}", wrong, 0)


@pytest.mark.parametrize(
  "settings",
  [
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 1e-6},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.8},
  ],
  ids=str,
)
def test_warped_distributions(settings, references, compare):
  import torch
  from transformers.generation import logits_process

  logits = np.random.default_rng(0).standard_normal((6, 300)) * 3
  logits = logits.astype(np.float32)
  theirs = torch.tensor(logits)
  makers = {
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
  }
  for name, value in settings.items():
    theirs = makers[name](value)(None, theirs)
  theirs = theirs.softmax(dim=-1).numpy()
  ours = jax.nn.softmax(sampling.warp(jnp.asarray(logits), **settings))
  np.testing.assert_array_equal(np.asarray(ours) == 0, theirs == 0)
  case = ", ".join(f"{k}={v}" for k, v in settings.items())
  difference = np.abs(ours - theirs).max()
  compare(
    FAMILY, references.VERSION, f"probabilities, {case}", difference, 1e-6
  )
