"""Reads the objects of an embedded-world image from its pixels alone.

Objects are more colourful than what is behind them. So a pixel's place in a
plane of two colour differences, in which every gray is the origin, says how
much of an object it holds:

    pixels -> colourful parts -> one part per object -> coverage map
           -> box, colour (its hue), kind (the nearest outline)

Nothing here knows the scene, the grid or the sizes.
"""

import colorsys
import dataclasses
import functools

import numpy as np
from scipy import ndimage

from data_gen.tools import _regions, _world_shapes, tool

# Hue of a full turn of the colours that can be named.
_HUES = (
  ("red", 0.0),
  ("orange", 0.07),
  ("yellow", 0.145),
  ("green", 0.36),
  ("cyan", 0.50),
  ("blue", 0.62),
  ("purple", 0.77),
  ("pink", 0.91),
)
COLORS = tuple(name for name, _ in _HUES)
USUAL_COLORS = ("red", "green", "blue", "yellow")
USUAL_KINDS = ("square", "circle", "triangle", "cross")

_LEAST_CHROMA = 30.0  # Noise and muted backgrounds stay below it.
_LEAST_PX = 9
_LEAST_COVERAGE = 0.25  # Less is noise or the blur of JPEG.
_LEAST_EDGE_PX = 0.7  # Of coverage in a row or column of an object.
_MARGIN_PX = 2
_SPREAD = 0.07  # Of a full turn; a part with more is several objects.
_EIGHT = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object as the pixels show it.

  Attributes:
    box: y1 x1 y2 x2 on 0..999.
    box_yxyx_px: the same in pixels, ends exclusive.
    color, kind: names, the likeliest of the vocabulary.
    coverage: float32[h, w] over the box: 1 where its paint is seen.
    is_other: bool[h, w]: pixels of the box that another object covers.
  """

  box: list[int]
  box_yxyx_px: tuple[int, int, int, int]
  color: str
  kind: str
  coverage: np.ndarray
  is_other: np.ndarray


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The colours and kinds that may occur, as a trained detector knows its.

  Attributes:
    colors, kinds: names, as tuples.

  Raises:
    ValueError: if a name is unknown; lists the known ones.
  """

  colors: tuple[str, ...]
  kinds: tuple[str, ...]

  def __post_init__(self):
    for what, known in (("colors", COLORS), ("kinds", _world_shapes.KINDS)):
      unknown = sorted(set(getattr(self, what)) - set(known))
      if unknown or not getattr(self, what):
        raise ValueError(
          f"{what}={getattr(self, what)} has unknown names {unknown}; known"
          f" are {known}."
        )
    if set(self.kinds) == {_world_shapes.SIGN}:
      raise ValueError("kinds=('sign',) needs another kind beside signs.")


def things_of(image: np.ndarray, vocabulary: Vocabulary) -> tuple[Thing, ...]:
  """The objects in an image, in reading order.

  The last few images are remembered per process, for all tools together.

  Args:
    image: uint8[height, width, 3].
    vocabulary: names to choose from.
  """
  return _things_of_bytes(image.tobytes(), image.shape, vocabulary)


@functools.lru_cache(maxsize=64)  # As many as batches of tools go over.
def _things_of_bytes(pixels, shape, vocabulary):
  image = np.frombuffer(pixels, np.uint8).reshape(shape)
  plane = _color_plane(image)
  chroma = np.hypot(plane[0], plane[1])
  labels, count = _label(chroma > _LEAST_CHROMA)
  labels = _split_by_hue(plane, labels, count)
  sizes = np.bincount(labels.ravel())
  things = []
  for label, window in enumerate(ndimage.find_objects(labels), start=1):
    if window is not None and sizes[label] >= _LEAST_PX:
      thing = _thing(plane, chroma, labels, label, window, vocabulary)
      if thing is not None:
        things.append(thing)
  return tuple(things[i] for i in tool.reading_order([t.box for t in things]))


def _color_plane(image):
  """float32[2, h, w]: r - g and (r + g) / 2 - b, without the common tint."""
  rgb = image.astype(np.float32)
  red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
  plane = np.stack([red - green, (red + green) / 2 - blue])
  # The tint is that of the gray half: the background fills most of an image.
  flat = plane.reshape(2, -1)
  for _ in range(2):
    near = np.hypot(flat[0], flat[1]) < 2 * _LEAST_CHROMA
    if near.any():
      flat -= np.median(flat[:, near], axis=1, keepdims=True)
  return plane


def _hue(u, v):
  """Hue of a full turn for a point of the colour plane."""
  red, green = v + u / 2, v - u / 2
  low = min(red, green, 0.0)
  high = max(red - low, green - low, -low, 1e-6)
  return colorsys.rgb_to_hsv(
    (red - low) / high, (green - low) / high, -low / high
  )[0]


def _split_by_hue(plane, labels, count):
  """Gives touching objects of different colours labels of their own."""
  next_label = count + 1
  for label, window in enumerate(ndimage.find_objects(labels), start=1):
    mask = labels[window] == label
    if mask.sum() < 2 * _LEAST_PX:
      continue
    u, v = plane[0][window][mask], plane[1][window][mask]
    angle = np.arctan2(v, u)
    names = _nearest_by_angle(angle)
    shares = np.bincount(names, minlength=len(_HUES)) / len(names)
    if _angle_spread(angle) < _SPREAD or shares.max() > 0.9:
      continue
    by_name = np.full(mask.shape, -1)
    by_name[mask] = names
    view = labels[window]
    for name in np.flatnonzero(shares * mask.sum() >= _LEAST_PX):
      parts, parts_count = _label(by_name == name)
      for part in range(1, parts_count + 1):
        view[parts == part] = next_label
        next_label += 1
  return labels


def _label(mask):
  """(int32[h, w], count): numbers from 1 for the connected parts."""
  labels = np.empty(mask.shape, np.int32)
  ndimage.label(mask, _EIGHT, output=labels)
  return labels, int(labels.max())


def _angle_spread(angle):
  """Spread of angles: share of a turn that holds the middle 80 %."""
  middle = np.angle(np.exp(1j * angle).mean())
  off = np.abs(np.angle(np.exp(1j * (angle - middle))))
  return float(np.quantile(off, 0.8)) / (2 * np.pi)


@functools.lru_cache(maxsize=1)
def _angles():
  """Angle in the colour plane of each named colour, float32[8]."""
  rgb = np.array([colorsys.hsv_to_rgb(h, 0.8, 0.8) for _, h in _HUES])
  red, green, blue = rgb.T
  return np.arctan2((red + green) / 2 - blue, red - green)


def _nearest_by_angle(angle):
  off = np.abs(angle[:, None] - _angles()[None, :])
  return np.minimum(off, 2 * np.pi - off).argmin(axis=1)


def _thing(plane, chroma, labels, label, window, vocabulary):
  """Measures one part; None if it turns out to be nothing."""
  rows, columns = window
  y0, x0 = max(0, rows.start - _MARGIN_PX), max(0, columns.start - _MARGIN_PX)
  wide = (
    slice(y0, rows.stop + _MARGIN_PX),
    slice(x0, columns.stop + _MARGIN_PX),
  )
  near = labels[wide]
  is_other = (near > 0) & (near != label)
  own = chroma[window][labels[window] == label]
  is_core = (near == label) & (chroma[wide] >= np.quantile(own, 0.6))
  u = float(plane[0][wide][is_core].mean())
  v = float(plane[1][wide][is_core].mean())
  coverage = (plane[0][wide] * u + plane[1][wide] * v) / (u * u + v * v)
  coverage = np.where(is_other, 0, np.clip(coverage, 0, 1))
  seen = np.where(coverage > _LEAST_COVERAGE, coverage, 0)
  ys = np.flatnonzero(seen.sum(axis=1) > _LEAST_EDGE_PX)
  xs = np.flatnonzero(seen.sum(axis=0) > _LEAST_EDGE_PX)
  if len(ys) < 3 or len(xs) < 3:
    return None
  first = int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1
  (y1, x1, y2, x2), kind = _world_shapes.fit(
    coverage, is_other, first, vocabulary.kinds
  )
  box = y0 + y1, x0 + x1, y0 + y2, x0 + x2
  return Thing(
    box=_regions.to_grid(plane.shape[1:], box),
    box_yxyx_px=box,
    color=_nearest_color(_hue(u, v), vocabulary.colors),
    kind=kind,
    coverage=coverage[y1:y2, x1:x2],
    is_other=is_other[y1:y2, x1:x2],
  )


def _nearest_color(hue, colors):
  def off(item):
    return min(abs(hue - item[1]), 1 - abs(hue - item[1]))

  return min((item for item in _HUES if item[0] in colors), key=off)[0]
