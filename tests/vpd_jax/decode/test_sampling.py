"""What is kept and drawn of one position's logits, worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.decode import sampling

pytestmark = pytest.mark.usefixtures("strict_dtypes")
PROBS = np.array([[0.1, 0.4, 0.05, 0.3, 0.15]], np.float32)
LOGITS = jnp.log(PROBS)


def kept(logits_RV):
  return np.flatnonzero(np.isfinite(np.asarray(logits_RV)[0])).tolist()


@pytest.mark.parametrize(
  "top_k, expected",
  [(1, [1]), (2, [1, 3]), (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, None)],
)
def test_top_k(top_k, expected):
  found = kept(sampling.keep_top_k(LOGITS, top_k))
  assert found == (expected or [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
  "top_p, expected",
  [
    # In order of probability: 1 (0.4), 3 (0.3), 4 (0.15), 0 (0.1), 2 (0.05).
    (1e-9, [1]),
    (0.39, [1]),
    (0.41, [1, 3]),
    (0.69, [1, 3]),
    (0.71, [1, 3, 4]),
    (0.84, [1, 3, 4]),
    (0.94, [0, 1, 3, 4]),
    (0.96, [0, 1, 2, 3, 4]),
    (1, [0, 1, 2, 3, 4]),
  ],
)
def test_top_p(top_p, expected):
  assert kept(sampling.keep_top_p(LOGITS, top_p)) == expected


def test_what_is_kept_has_its_logits():
  found = sampling.warp(LOGITS, temperature=0.5, top_k=3, top_p=0.9)
  # Squared and of three: 0.16, 0.09, 0.0225 of 0.2725, or .59, .33, .08.
  assert kept(found) == [1, 3]
  np.testing.assert_array_equal(
    np.asarray(found)[0, [1, 3]], np.asarray(LOGITS)[0, [1, 3]] / 0.5
  )


def test_top_p_is_of_what_top_k_left():
  # 0.4 / 0.7 = 0.57 is more than 0.5; of all tokens, 0.4 is not.
  assert kept(sampling.warp(LOGITS, top_k=2, top_p=0.5)) == [1]
  assert kept(sampling.warp(LOGITS, top_p=0.5)) == [1, 3]


def test_rows_are_warped_alone():
  both = jnp.concatenate([LOGITS, LOGITS[:, ::-1] * 3])
  found = sampling.warp(both, temperature=0.9, top_k=3, top_p=0.8)
  for row in range(2):
    alone = sampling.warp(
      both[row : row + 1], temperature=0.9, top_k=3, top_p=0.8
    )
    np.testing.assert_array_equal(found[row], alone[0])


def test_forbidden_tokens():
  assert kept(sampling.forbid(LOGITS, (1, 4))) == [0, 2, 3]
  assert sampling.greedy(sampling.forbid(LOGITS, (1, 4))).tolist() == [3]
  # Nucleus of the rest: 0.3 of 0.45 is two thirds.
  rest = sampling.forbid(LOGITS, (1, 4))
  assert kept(sampling.warp(rest, top_p=0.6)) == [3]


@pytest.mark.parametrize("is_too_early", [True, False])
def test_the_end_is_forbidden_while_it_is_too_early(is_too_early):
  found = sampling.forbid_end(LOGITS, 1, jnp.array(is_too_early))
  assert sampling.greedy(found).tolist() == [3 if is_too_early else 1]


def test_equals_go_to_the_lowest_id():
  assert sampling.greedy(jnp.array([[0.0, 2.0, 2.0]])).tolist() == [1]


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"temperature": 0}, "temperature=0 must be over 0"),
    ({"top_k": 0}, "top_k=0 must be at least 1"),
    ({"top_p": 0.0}, r"top_p=0.0 must be over 0 and at most 1"),
    ({"top_p": 1.5}, "top_p=1.5"),
  ],
)
def test_settings_out_of_range(settings, message):
  with pytest.raises(ValueError, match=message):
    sampling.warp(LOGITS, **settings)


def test_forbidden_id_out_of_range():
  with pytest.raises(ValueError, match=r"forbidden_ids \[5\] are not in 0..4"):
    sampling.forbid(LOGITS, (5,))


@pytest.mark.parametrize(
  "settings", [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.8}], ids=str
)
def test_draws_are_distributed_as_the_softmax(settings):
  draws = 20_000
  warped = sampling.warp(LOGITS, **settings)
  expected = np.asarray(jax.nn.softmax(warped))[0] * draws
  keys = jax.random.split(jax.random.key(1), draws)
  found = sampling.draw(jnp.tile(warped, (draws, 1)), keys)
  counts = np.bincount(np.asarray(found), minlength=5)
  assert not counts[expected == 0].any()
  can_be = expected > 0
  chi2 = np.sum((counts - expected)[can_be] ** 2 / expected[can_be])
  # At most 4 degrees of freedom: 99.9% of fair draws are under this.
  assert chi2 < 18.47
