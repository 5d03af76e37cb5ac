"""Intervals: values by hand, laws of the bootstrap, messages."""

import numpy as np
import pytest

from vpd_jax.evaluators import compare


def test_mean_and_counts_by_hand():
  interval = compare.mean_interval([1, 0, 0, 1, 1], ["a", "a", "b", "b", "c"])
  assert interval.mean == pytest.approx(0.6)
  assert (interval.num_values, interval.num_groups) == (5, 3)
  assert interval.low < 0.6 < interval.high


def test_two_groups_span_all_their_resamples():
  # Resamples of {A: 1, B: 0} are AA, AB, BA, BB: means 1, .5, .5, 0.
  interval = compare.mean_interval([1, 1, 0, 0], ["a", "a", "b", "b"])
  assert (interval.low, interval.high) == (0.0, 1.0)


def test_one_group_has_no_width():
  interval = compare.mean_interval([1, 0, 0, 0], ["a"] * 4)
  assert interval.low == interval.high == interval.mean == 0.25


def test_groups_of_equal_questions_are_wider_than_independent_ones():
  rng = np.random.default_rng(0)
  per_image = rng.integers(0, 2, 100).repeat(4).tolist()
  together = [str(i // 4) for i in range(400)]
  apart = [str(i) for i in range(400)]
  wide = compare.mean_interval(per_image, together)
  narrow = compare.mean_interval(per_image, apart)
  ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
  assert 1.7 < ratio < 2.3  # sqrt(4) for four equal questions an image.


def test_matches_the_normal_interval_of_a_large_sample():
  values = [1.0] * 700 + [0.0] * 300
  interval = compare.mean_interval(values, [str(i) for i in range(1000)])
  reach = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
  # 2000 draws put about 4% of noise on each end's distance from the mean.
  assert interval.high - 0.7 == pytest.approx(reach, rel=0.15)
  assert 0.7 - interval.low == pytest.approx(reach, rel=0.15)


def test_row_order_does_not_matter_and_the_seed_does():
  rng = np.random.default_rng(1)
  values, groups = rng.random(60), rng.integers(0, 20, 60).astype(str)
  order = rng.permutation(60)
  first = compare.mean_interval(values.tolist(), groups.tolist())
  again = compare.mean_interval(values[order].tolist(), groups[order].tolist())
  other = compare.mean_interval(values.tolist(), groups.tolist(), seed=1)
  assert first.low == pytest.approx(again.low, abs=1e-12)
  assert first.high == pytest.approx(again.high, abs=1e-12)
  assert first != other


def test_paired_is_narrower_than_unpaired_where_predictors_agree():
  rng = np.random.default_rng(2)
  baseline = rng.integers(0, 2, 300)
  better = baseline.copy()
  better[rng.choice(np.flatnonzero(baseline == 0), 15, replace=False)] = 1
  groups = [str(i) for i in range(300)]
  paired = compare.mean_interval((better - baseline).tolist(), groups)
  assert paired.mean == pytest.approx(15 / 300)
  assert paired.low > 0
  single = compare.mean_interval(better.tolist(), groups)
  assert paired.high - paired.low < (single.high - single.low) / 2


def test_difference_changes_sign_with_its_sides():
  groups = ["a", "b", "c", "d"]
  there = compare.mean_interval([1, 0, -1, 1], groups)
  back = compare.mean_interval([-1, 0, 1, -1], groups)
  assert there.mean == -back.mean
  assert there.low == pytest.approx(-back.high)


def test_over_seeds_by_hand():
  seeds = compare.over_seeds([1.0, 2.0, 3.0])
  assert seeds.mean == 2.0
  assert seeds.standard_error == pytest.approx(1 / 3**0.5)
  # Two degrees of freedom: t = 4.302653.
  assert seeds.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)


def test_one_seed_has_no_error():
  assert compare.over_seeds([0.4]) == compare.Seeds(0.4, None, None, None, 1)


@pytest.mark.parametrize(
  ("low", "high", "seeds", "expected"),
  [
    (0.01, 0.05, None, compare.AHEAD),
    (-0.05, -0.01, None, compare.BEHIND),
    (-0.01, 0.05, None, compare.UNCLEAR),
    (0.0, 0.05, None, compare.UNCLEAR),
    (0.01, 0.05, [0.03], compare.AHEAD),
    (0.01, 0.05, [0.03, 0.031, 0.029], compare.AHEAD),
    (0.01, 0.05, [0.09, -0.02, 0.02], compare.UNCLEAR),
    (-0.05, -0.01, [-0.03, -0.031, -0.029], compare.BEHIND),
  ],
)
def test_verdict(low, high, seeds, expected):
  questions = compare.Interval((low + high) / 2, low, high, 100, 25)
  runs = compare.over_seeds(seeds) if seeds else None
  assert compare.verdict(questions, runs) == expected


def test_messages():
  with pytest.raises(ValueError, match="0 values and 0 groups"):
    compare.mean_interval([], [])
  with pytest.raises(ValueError, match="2 values and 1 groups"):
    compare.mean_interval([1, 0], ["a"])
  with pytest.raises(ValueError, match="at least one run"):
    compare.over_seeds([])
