"""Intervals for accuracies and for paired differences between predictors.

Two sources of chance, kept apart:

  questions  questions about one picture share its difficulty, so whole images
             are drawn with replacement (`mean_interval`, for a difference
             too: of its values per question)
  seeds      each training run is one draw; runs with equal seeds share base,
             data and order, so their differences are averaged (`over_seeds`)

    twin   1 0 0 1    a = vpd - twin per question: 0 1 0 0
    vpd    1 1 0 1    images:                      A A B B
    resamples of {A, B}: AA -> .5, AB -> .25, BB -> 0

Neither interval says anything about another world or recipe, nor about
another base unless each seed has its own. Needs numpy and scipy only, so
data_gen's report uses it too.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

AHEAD = "ahead"
BEHIND = "behind"
UNCLEAR = "not distinguishable"

_RESAMPLES_AT_ONCE = 256
_ROUNDING = 1e-9  # Sums of thirds that should be 0 are not.


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean over questions with a bootstrap interval.

  Attributes:
    mean: of all values.
    low, high: ends of the percentile interval.
    num_values: how many questions.
    num_groups: how many images, the unit that is resampled.
  """

  mean: float
  low: float
  high: float
  num_values: int
  num_groups: int


@dataclasses.dataclass(frozen=True)
class Seeds:
  """A mean over training runs.

  Attributes:
    mean: of the runs' values.
    standard_error: sd / sqrt(n); None for one run.
    low, high: Student's t interval; None for one run.
    num_seeds: how many runs.
  """

  mean: float
  standard_error: float | None
  low: float | None
  high: float | None
  num_seeds: int


def mean_interval(
  values: Sequence[float],
  groups: Sequence[str],
  *,
  num_resamples: int = 2000,
  level: float = 0.95,
  seed: int = 0,
) -> Interval:
  """Mean of `values` with a percentile interval from resampled groups.

  The order of the rows does not matter. With every value equal the interval
  has no width, however few they are: read it together with `num_groups`.

  Args:
    values: one number per question, 1 for right and 0 for wrong, or a mean
      over seeds, or a difference.
    groups: the question's image; questions on one image are drawn together.
    num_resamples: draws of the bootstrap.
    level: share of the draws between low and high.
    seed: of the draws; equal seeds and values give equal intervals.

  Raises:
    ValueError: if there are no values, or the lengths differ.
  """
  if not len(values) or len(values) != len(groups):
    raise ValueError(
      f"an interval needs one group per value and at least one value; got"
      f" {len(values)} values and {len(groups)} groups"
    )
  names, index = np.unique(np.asarray(groups), return_inverse=True)
  # Sorted within a group, so that float sums do not depend on row order.
  order = np.lexsort((np.asarray(values, np.float64), index))
  values_sorted = np.asarray(values, np.float64)[order]
  sums = np.bincount(index[order], weights=values_sorted)
  counts = np.bincount(index)
  rng = np.random.default_rng(seed)
  share = np.full(len(names), 1 / len(names))
  means = []
  for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
    size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
    drawn = rng.multinomial(len(names), share, size=size)
    means.append((drawn @ sums) / (drawn @ counts))
  tail = (1 - level) / 2
  low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
  return Interval(
    mean=float(sums.sum() / counts.sum()),
    low=float(low),
    high=float(high),
    num_values=len(values),
    num_groups=len(names),
  )


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Seeds:
  """Mean over training runs; with two or more, its error and t interval.

  Raises:
    ValueError: if there are no values.
  """
  if not len(values):
    raise ValueError("a mean over seeds needs at least one run; got none")
  mean = float(np.mean(values))
  if len(values) == 1:
    return Seeds(mean, None, None, None, 1)
  error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
  reach = error * float(special.stdtrit(len(values) - 1, (1 + level) / 2))
  return Seeds(mean, error, mean - reach, mean + reach, len(values))


def verdict(questions: Interval, seeds: Seeds | None = None) -> str:
  """AHEAD, BEHIND or UNCLEAR, for a difference.

  A sign is only named if the interval over questions leaves out 0 and, where
  there are several seeds, the interval over seeds does so too.
  """
  lows, highs = [questions.low], [questions.high]
  if seeds is not None and seeds.low is not None and seeds.high is not None:
    lows.append(seeds.low)
    highs.append(seeds.high)
  if min(lows) > _ROUNDING:
    return AHEAD
  if max(highs) < -_ROUNDING:
    return BEHIND
  return UNCLEAR
