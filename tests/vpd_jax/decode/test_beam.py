"""Beam search: by hand, and against the full forward and greedy decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vpd_jax.decode import fakes
from vpd_jax import step
from vpd_jax.decode import beam, compiled, loop, score

EOS, TOKENS = 1, 6

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def search(parts, *arrays, **options):
  options = {"max_new_tokens": TOKENS, "eos_id": EOS} | options
  function = compiled.of(beam.search, parts[0], **options)
  return jax.tree.map(np.asarray, function(parts[1], *arrays))


@pytest.fixture(scope="module")
def eos_id(parts, inputs):
  """A token that is likely early in the first row."""
  return int(
    search(parts, *inputs, beams=1, early_stopping=True).tokens[0, 0, 1]
  )


def test_one_beam_is_greedy(parts, inputs, eos_id):
  found = search(parts, *inputs, beams=1, early_stopping=True, eos_id=eos_id)
  greedy = compiled.of(
    loop.generate, parts[0], max_new_tokens=TOKENS, eos_id=eos_id
  )(parts[1], *inputs)
  np.testing.assert_array_equal(found.tokens, greedy.tokens)
  np.testing.assert_array_equal(found.lengths, greedy.lengths)
  # Scores are means per token where the penalty is 1.
  np.testing.assert_allclose(
    found.scores * found.lengths, greedy.log_probs, rtol=1e-5
  )
  assert (found.tokens == eos_id).any() and found.lengths.max() == TOKENS


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_scores_are_of_the_full_forward(parts, inputs, eos_id, length_penalty):
  """So every beam brought its own cache along, wherever it went."""
  found = search(
    parts,
    *inputs,
    beams=4,
    returned=4,
    eos_id=eos_id,
    length_penalty=length_penalty,
  )
  weights = np.arange(TOKENS) < found.lengths[..., None]
  scores = compiled.of(score.score_options, parts[0])(
    parts[1], *inputs, jnp.asarray(found.tokens), weights.astype(np.float32)
  )
  expected = scores.sum / found.lengths**length_penalty
  np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-6)
  assert (np.diff(found.scores, axis=1) <= 0).all()
  rows = found.tokens.reshape(len(found.tokens), 4, -1)
  assert all(len(np.unique(row, axis=0)) == 4 for row in rows)
  # Without a penalty the short win, with one the long.
  has_ended = (found.tokens == eos_id).any(axis=2)
  assert has_ended.any() if length_penalty == 0 else not has_ended.all()


def test_rows_know_neither_neighbours_nor_padding(parts, inputs, eos_id):
  image, prompt = inputs
  options = {"beams": 3, "returned": 2, "eos_id": eos_id}
  together = search(parts, image, prompt, **options)
  longer = jnp.pad(prompt[:2], ((0, 0), (0, 3)))
  alone = search(parts, image[:2], longer, **options)
  np.testing.assert_array_equal(together.tokens[:2], alone.tokens)
  np.testing.assert_allclose(together.scores[:2], alone.scores, atol=1e-5)


def test_bfloat16_activations(parts, inputs):
  single = search(parts, *inputs, beams=2)
  half = search(parts, *inputs, beams=2, dtype=jnp.bfloat16)
  difference = np.abs(single.scores - half.scores)
  assert 0 < difference.max() < 0.05


def test_an_example_is_encoded_and_held_once(parts, inputs, shapes):
  """However many its beams: no array has rows, length and width."""
  beams = 16
  prompt = jnp.tile(inputs[1][:2], (1, 2))
  found = shapes(
    lambda model, prompt: beam.search(
      model, None, prompt, max_new_tokens=2, eos_id=EOS, beams=beams
    ),
    parts,
    prompt,
  )
  decoder = step.merge(*parts).decoder
  one = (decoder.heads, prompt.shape[1], decoder.head_width)
  assert (2, *one) in found
  for shape in found:
    assert np.prod(shape) < 2 * beams * np.prod(one), shape


# After 0 comes 2, mostly, of which nothing certain follows; after 3 the end.
CHAIN = [
  [0.0, 0.05, 0.5, 0.4, 0.05],
  [0.2, 0.2, 0.2, 0.2, 0.2],
  [0.25, 0.35, 0.1, 0.0, 0.3],
  [0.0, 0.9, 0.0, 0.1, 0.0],
  [0.25, 0.0, 0.25, 0.25, 0.25],
]


def by_hand(prompt, **options):
  chain = fakes.Chain(CHAIN)
  options = {"max_new_tokens": 4, "beams": 2, "eos_id": EOS} | options
  found = beam.search(chain, None, jnp.array(prompt, jnp.int32), **options)
  jax.effects_barrier()
  return found, sorted(chain.steps)


def test_a_beam_finds_what_greedy_misses():
  # Greedy takes 2 (0.5), then the end at 0.35: 0.175. Through 3: 0.36.
  found, _ = by_hand([[0]], length_penalty=0.0, returned=2)
  assert found.tokens.tolist() == [[[3, 1, 0, 0], [2, 1, 0, 0]]]
  np.testing.assert_allclose(
    found.scores, [np.log([0.4 * 0.9, 0.5 * 0.35])], rtol=1e-6
  )
  assert found.lengths.tolist() == [[2, 2]]


def test_a_length_penalty_favours_the_long():
  # After 3, a second 3 halves what its mean loses: (0.4 0.1 0.9) over 3**9.
  short, _ = by_hand([[3]], length_penalty=0.0)
  assert short.tokens.tolist() == [[[1, 0, 0, 0]]]
  long, _ = by_hand([[3]], length_penalty=9.0, early_stopping="never")
  assert long.lengths.tolist() == [[4]]


@pytest.mark.parametrize(
  "early_stopping, expected",
  [
    # The first step gives one hypothesis (the end, 0.9), the second another
    # (3 and the end, 0.09). True stops there.
    (True, [0, 1]),
    # Ended now, the best beam (3 3, 0.01 over 2) is no better than the worst.
    (False, [0, 1]),
    # At four tokens it could score better per token.
    ("never", [0, 1, 2, 3]),
  ],
)
def test_when_it_stops(early_stopping, expected):
  _, steps = by_hand([[3]], early_stopping=early_stopping, length_penalty=2.0)
  assert steps == expected


def test_beams_are_cut_at_the_most_tokens():
  found, steps = by_hand([[0]], max_new_tokens=1, returned=2)
  assert found.tokens.tolist() == [[[2], [3]]] and steps == [0]
  np.testing.assert_allclose(found.scores, np.log([[0.5, 0.4]]), rtol=1e-6)


def test_a_least_length_and_forbidden_tokens():
  found, _ = by_hand([[3]], min_new_tokens=2, length_penalty=0.0)
  assert found.tokens.tolist() == [[[3, 3, 1, 0]]]
  # Not made larger by what is left out.
  np.testing.assert_allclose(found.scores, np.log([[0.009]]), rtol=1e-6)
  with pytest.raises(ValueError, match="the vocabulary has 4 that are not"):
    by_hand([[0]], forbidden_ids=(2,))
  found, _ = by_hand([[0]], forbidden_ids=(3,), beams=1, length_penalty=0.0)
  assert 3 not in found.tokens.ravel().tolist()


@pytest.mark.parametrize(
  "options, message",
  [
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"returned": 3}, "returned=3 is not in 1..2"),
    ({"beams": 0}, "returned=1 is not in 1..0"),
    ({"beams": 3}, "needs more than 6 tokens"),
    ({"early_stopping": "always"}, "early_stopping='always' is not True"),
  ],
  ids=str,
)
def test_settings_that_do_not_go(options, message):
  with pytest.raises(ValueError, match=message):
    by_hand([[0]], **options)
