"""Draws scenes of the embedded world as pixels, and encodes them as JPEG.

A few objects are hard to read on purpose (faint, of an odd hue, speckled),
so that whoever reads pixels errs as on photographs. Nothing but the pixels
tells which.
"""

import colorsys
import functools
import io
import types

import numpy as np
from PIL import Image

from data_gen.sources import _scene
from data_gen.tools import _typeface

# Hue of a full turn, saturation and value in 0..1.
_HSV = types.MappingProxyType(
  {
    "red": (0.0, 0.80, 0.82),
    "green": (0.36, 0.70, 0.62),
    "blue": (0.62, 0.76, 0.80),
    "yellow": (0.145, 0.82, 0.90),
    "purple": (0.77, 0.62, 0.65),
    "orange": (0.07, 0.88, 0.93),
    "cyan": (0.50, 0.68, 0.75),
    "pink": (0.91, 0.48, 0.93),
  }
)
_DARK_LETTERS = frozenset(("yellow", "orange", "cyan", "pink"))
_SUPERSAMPLING = 8


def render(
  scene: _scene.Scene, setting: _scene.Setting, rng: np.random.Generator
) -> np.ndarray:
  """Draws the scene: uint8[image_px, image_px, 3]."""
  image = _background(setting, rng)
  draws = rng.random((len(scene.objects), 6)).tolist()
  jitters = rng.standard_normal((len(scene.objects), 2)).tolist()
  light = 0.88 + 0.2 * float(rng.random())
  # Far before near; on a grid all depths are equal and the order is kept.
  order = sorted(
    range(len(scene.objects)), key=lambda i: -scene.objects[i].depth
  )
  for i in order:
    _draw(image, scene.objects[i], setting, draws[i], jitters[i], light, rng)
  image += rng.standard_normal(image.shape, np.float32) * setting.noise_std
  return np.clip(image, 0, 255, out=image).astype(np.uint8)


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
  """JPEG bytes of uint8[height, width, 3], colours not subsampled."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
  return buffer.getvalue()


def _background(setting, rng):
  """A muted gradient with a few patches: float32[side, side, 3]."""
  side = setting.image_px
  draws = rng.random((2 + setting.patches, 8)).tolist()
  level = 95 + 90 * draws[0][0]
  tint = [16 * draws[0][c] - 8 for c in (1, 2, 3)]
  slope_y, slope_x = 50 * draws[1][0] - 25, 50 * draws[1][1] - 25
  ramp = _ramp(side)
  gray = level + slope_y * ramp[:, None] + slope_x * ramp[None, :]
  image = np.repeat(gray[:, :, None], 3, axis=2)
  image += np.array(tint, np.float32)
  count = int(draws[1][2] * (setting.patches + 1))
  for patch in draws[2 : 2 + count]:
    y, x = int(patch[0] * side), int(patch[1] * side)
    height = 1 + int(patch[2] * side * 0.6)
    width = 1 + int(patch[3] * side * 0.6)
    change = [24 * patch[4] - 12 + 10 * patch[c] - 5 for c in (5, 6, 7)]
    image[y : y + height, x : x + width] += np.array(change, np.float32)
  return image


def _draw(image, thing, setting, draws, jitters, light, rng):
  y1, x1, y2, x2 = thing.box_yxyx_px
  hue, saturation, value = _HSV[thing.color]
  hue += jitters[0] * setting.hue_jitter
  if draws[0] < setting.odd_hue_share:
    hue += (0.04 + 0.10 * draws[1]) * (1 if draws[2] < 0.5 else -1)
  value = min(1.0, value * light * (1 + 0.04 * jitters[1]))
  coverage = _coverage(thing.kind, y2 - y1, x2 - x1)
  if draws[3] < setting.faint_share:
    coverage = coverage * (0.05 + 0.45 * draws[5])
  if draws[4] < setting.speckled_share:
    kept = rng.random(coverage.shape[:2]) > 0.2 + 0.35 * draws[5]
    coverage = coverage * kept[:, :, None]
  paint = np.array(
    colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32
  )
  paint = paint * (255 * _pattern(thing.texture, y2 - y1, x2 - x1))
  if thing.word:
    letters = _letters(thing.word, y2 - y1, x2 - x1)
    ink = 20.0 if thing.color in _DARK_LETTERS else 245.0
    paint = np.where(letters, np.float32(ink), paint)
  crop = image[y1:y2, x1:x2]
  crop += coverage * (paint - crop)


@functools.lru_cache(maxsize=16)
def _ramp(side):
  return np.linspace(-1, 1, side, dtype=np.float32)


@functools.lru_cache(maxsize=1024)
def _letters(word, height, width):
  """The word, centred and as large as fits: bool[height, width, 1]."""
  scale = max(1, min((width - 1) // (4 * len(word)), (height - 2) // 5))
  letters = _typeface.word_mask(word, scale)
  mask = np.zeros((height, width, 1), bool)
  y, x = (height - letters.shape[0]) // 2, (width - letters.shape[1]) // 2
  mask[y : y + letters.shape[0], x : x + letters.shape[1], 0] = letters
  return mask


@functools.lru_cache(maxsize=1024)
def _pattern(texture, height, width):
  """Brightness of the paint: float32[height, width, 1]."""
  y, x = np.mgrid[:height, :width]
  pitch = max(4, width // 4)
  if texture == "striped":
    dark = (x + y) % pitch < pitch // 2
  elif texture == "dotted":
    dark = (y % pitch < pitch // 2) & (x % pitch < pitch // 2)
  else:
    dark = np.zeros((height, width), bool)
  return np.where(dark, 0.7, 1.0).astype(np.float32)[:, :, None]


@functools.lru_cache(maxsize=1024)
def _coverage(kind, height, width):
  """Share of each pixel that the kind covers: float32[height, width, 1].

  Every kind touches all four sides of its box with at least a tenth of the
  side, so that boxes can be read from the pixels.
  """
  n = _SUPERSAMPLING
  v = (np.arange(height * n) + 0.5) / (height * n)
  u = (np.arange(width * n) + 0.5) / (width * n)
  inside = _shape(kind, v[:, None], u[None, :])
  inside = np.broadcast_to(inside, (height * n, width * n))
  blocks = inside.reshape(height, n, width, n).astype(np.float32)
  return blocks.mean((1, 3))[:, :, None]


def _shape(kind, v, u):
  """Whether points are inside the kind; v goes down and u right, in 0..1."""
  y, x = 2 * v - 1, 2 * u - 1
  if kind in ("square", _scene.SIGN):
    return (abs(y) <= 1) & (abs(x) <= 1)
  if kind == "circle":
    return y**2 + x**2 <= 1
  if kind == "ring":
    return (y**2 + x**2 <= 1) & (y**2 + x**2 >= 0.25)
  if kind == "triangle":
    return abs(x) <= 0.2 + 0.8 * v
  if kind == "cross":
    return np.minimum(abs(y), abs(x)) <= 0.36
  if kind == "diamond":
    return abs(y) + abs(x) <= 1.1
  if kind == "star":  # A four-pointed star with blunt tips.
    return np.sqrt(abs(y) + 0.02) + np.sqrt(abs(x) + 0.02) <= 1.35
  raise ValueError(f"no shape for kind {kind!r}; kinds are {_scene.KINDS}")
