"""Outlines of the kinds that occur in the embedded world, and how they fit pixels."""

import functools
from collections.abc import Iterator

import numpy as np

SIGN = "sign"
KINDS = (
  *("square", "circle", "triangle", "cross", "diamond", "ring", "star"),
  SIGN,
)
_SIGN_ASPECT = 1.6
_POINTS = 4  # Per pixel and axis.
_GOOD_FIT = 0.02  # Squared error per pixel below which no side is moved.

Box = tuple[int, int, int, int]


def fit(
  coverage: np.ndarray,
  is_other: np.ndarray,
  box_yxyx_px: Box,
  kinds: tuple[str, ...],
) -> tuple[Box, str]:
  """The box and the kind whose outline explains best what is seen.

  Starts from a box that is right or nearly so, and moves one side by a pixel
  as long as that explains more.

  Args:
    coverage: float32[h, w], 1 where the object is seen, with some margin.
    is_other: bool[h, w], pixels that another object hides; not compared.
    box_yxyx_px: where to start, in the arrays' own rows and columns.
    kinds: names to choose from; SIGN is chosen for what is much wider than
      high, whatever is on it.

  Returns:
    (box, kind).
  """
  if SIGN in kinds:
    if _is_sign(box_yxyx_px):
      return box_yxyx_px, SIGN
    kinds = tuple(kind for kind in kinds if kind != SIGN)
  weight = ~is_other
  box = box_yxyx_px
  error, kind = _error(coverage, weight, box, kinds)
  while error > _GOOD_FIT * (box[2] - box[0]) * (box[3] - box[1]):
    tried = [
      (*_error(coverage, weight, moved, kinds), moved)
      for moved in _moved(box, coverage.shape)
    ]
    best = min(tried, default=(error, kind, box))
    if best[0] >= error:
      break
    error, kind, box = best
  return box, kinds[kind]


def _is_sign(box):
  y1, x1, y2, x2 = box
  return x2 - x1 >= _SIGN_ASPECT * (y2 - y1)


def _moved(box: Box, shape: tuple[int, ...]) -> Iterator[Box]:
  """Boxes with one side a pixel further out or in."""
  for side in range(4):
    for step in (-1, 1):
      moved = list(box)
      moved[side] += step
      y1, x1, y2, x2 = moved
      if 0 <= y1 and 0 <= x1 and y2 <= shape[0] and x2 <= shape[1]:
        if y2 - y1 >= 3 and x2 - x1 >= 3:
          yield y1, x1, y2, x2


def _error(coverage, weight, box, kinds):
  """Smallest squared error over the kinds, and the number of that kind.

  Each outline is scaled to the level that fits best, so that an object that
  is faint all over fits as well as a strong one.
  """
  y1, x1, y2, x2 = box
  inside = (coverage * weight)[y1:y2, x1:x2]
  outlines = _outlines(kinds, y2 - y1, x2 - x1)
  shown = outlines * weight[y1:y2, x1:x2]
  explained = (shown * inside).sum(axis=(1, 2)) ** 2
  explained /= np.maximum((shown * shown).sum(axis=(1, 2)), 1e-6)
  kind = int(explained.argmax())
  return float((coverage**2).sum() - explained[kind]), kind


@functools.lru_cache(maxsize=1024)
def _outlines(kinds, height, width):
  """float32[kinds, height, width]: the share of each pixel inside."""
  n = _POINTS
  y = 2 * (np.arange(height * n) + 0.5) / (height * n) - 1
  x = 2 * (np.arange(width * n) + 0.5) / (width * n) - 1
  y, x = np.meshgrid(y, x, indexing="ij")
  return np.stack(
    [
      _is_inside(kind, y, x)
      .reshape(height, n, width, n)
      .mean(axis=(1, 3), dtype=np.float32)
      for kind in kinds
    ]
  )


def _is_inside(kind, y, x):
  """y goes down and x right, both from -1 to 1."""
  radius = y**2 + x**2
  if kind == "square":
    return np.ones(y.shape, bool)
  if kind == "circle":
    return radius <= 1
  if kind == "ring":
    return (radius <= 1) & (radius >= 0.25)
  if kind == "triangle":
    return abs(x) <= 0.6 + 0.4 * y
  if kind == "cross":
    return np.minimum(abs(y), abs(x)) <= 0.36
  if kind == "diamond":
    return abs(y) + abs(x) <= 1.2
  return np.sqrt(abs(y) + 0.02) + np.sqrt(abs(x) + 0.02) <= 1.35  # star
