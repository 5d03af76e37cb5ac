"""Scores of options against the softmax of the full forward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import Compiled
from tests.vpd_jax.decode import fakes
from vpd_jax import step
from vpd_jax.decode import compiled, score

pytestmark = pytest.mark.usefixtures("strict_dtypes")
OPTIONS = [
  [[5, 6, 1], [7, 1], [9, 9, 9, 1]],
  [[5, 1]],
  [[8, 1], [8, 2, 1]],
]


@pytest.fixture(scope="module")
def case(parts, inputs):
  """(image, prompt, options, weights, what is found) of three questions."""
  arrays = [x[:3] for x in inputs]
  arrays += [jnp.asarray(x) for x in score.pad_options(OPTIONS)]
  found = compiled.of(score.score_options, parts[0])(parts[1], *arrays)
  return (*arrays, jax.tree.map(np.asarray, found))


def test_scores_are_log_softmax_of_the_full_forward(parts, case):
  image, prompt, _, _, found = case
  model = Compiled(step.merge(*parts))
  for row, of_one in enumerate(OPTIONS):
    for column, option in enumerate(of_one):
      target = jnp.asarray([option], jnp.int32)
      logits = model(image[row : row + 1], prompt[row : row + 1], target)
      log_probs = jax.nn.log_softmax(logits[0])
      each = [float(log_probs[i, token]) for i, token in enumerate(option)]
      np.testing.assert_allclose(found.sum[row, column], sum(each), atol=1e-5)
      np.testing.assert_allclose(
        found.mean[row, column], np.mean(each), atol=1e-5
      )


def test_what_is_no_option_is_never_the_best(case):
  found = case[-1]
  is_option = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
  for scores in (found.sum, found.mean):
    np.testing.assert_array_equal(scores == -np.inf, ~is_option)
    assert np.isfinite(scores[is_option]).all()


def test_rows_know_neither_neighbours_nor_padding(parts, case):
  image, prompt, options, weights, found = case
  room = ((0, 0), (0, 2), (0, 3))
  longer = compiled.of(score.score_options, parts[0])(
    parts[1],
    image[:1],
    jnp.pad(prompt[:1], ((0, 0), (0, 4))),
    jnp.pad(options[:1], room),
    jnp.pad(weights[:1], room),
  )
  np.testing.assert_allclose(longer.sum[:, :3], found.sum[:1], atol=1e-5)
  np.testing.assert_allclose(longer.mean[:, :3], found.mean[:1], atol=1e-5)


@pytest.mark.parametrize("positions", [1, 9, 18, 30])
def test_slices_change_nothing(parts, case, monkeypatch, positions):
  # 9 rows of 4 tokens: slices of 1, 1, 2 and 3 tokens, the last with room.
  monkeypatch.setattr(score, "POSITIONS", positions)
  model = step.merge(*parts)
  found = jax.jit(functools.partial(score.score_options, model))(*case[:-1])
  np.testing.assert_allclose(found.sum, case[-1].sum, atol=1e-5)


def test_an_example_is_encoded_and_held_once(parts, inputs, shapes):
  rows, tokens = 64, 2
  image, prompt = inputs[0][:1], inputs[1][:1]
  targets = jnp.ones((1, rows, tokens), jnp.int32)
  found = shapes(
    score.score_options, parts, image, prompt, targets, jnp.ones(targets.shape)
  )
  decoder = step.merge(*parts).decoder
  one = (9 + prompt.shape[1], decoder.heads, decoder.head_width)
  assert (1, *one) in found
  for shape in found:
    assert np.prod(shape) < rows * np.prod(one), shape


def test_weights_choose_tokens():
  chain = fakes.Chain([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]])
  # After 0 comes 2 (0.7), then 1 (0.5), then 0 (0.3). After 2 never 0.
  options = jnp.array([[[2, 1, 0], [2, 1, 0], [2, 0, 0]]], jnp.int32)
  weights = jnp.array([[[1.0, 1, 1], [0, 1, 1], [1, 0, 0]]])
  prompt = jnp.zeros((1, 1), jnp.int32)
  found = score.score_options(chain, None, prompt, options, weights)
  sums = np.log([[0.7 * 0.5 * 0.3, 0.5 * 0.3, 0.7]])
  np.testing.assert_allclose(found.sum, sums, rtol=1e-6)
  np.testing.assert_allclose(found.mean, sums / [[3, 2, 1]], rtol=1e-6)


def test_padded_options():
  tokens, weights = score.pad_options([[[5, 1]], [[7, 8, 1], [9]]], pad_id=3)
  assert tokens.tolist() == [
    [[5, 1, 3], [3, 3, 3]],
    [[7, 8, 1], [9, 3, 3]],
  ]
  assert weights.tolist() == [
    [[1, 1, 0], [0, 0, 0]],
    [[1, 1, 1], [1, 0, 0]],
  ]


@pytest.mark.parametrize("options", [[[]], [[[5], []]]])
def test_questions_without_an_answer(options):
  with pytest.raises(ValueError, match="question 0 has options"):
    score.pad_options(options)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3), (1, 3, 5)])
def test_shapes_that_do_not_agree(shape):
  chain, prompt = fakes.Chain(np.eye(3)), jnp.zeros((1, 1), jnp.int32)
  options = jnp.zeros(shape, jnp.int32)
  with pytest.raises(ValueError, match=r"must both\s+be \[questions, options"):
    score.score_options(chain, None, prompt, options, jnp.ones((1, 3, 4)))
