"""Reads the words printed in the embedded world, letter by letter."""

import functools

import numpy as np

from data_gen.tools import (
  _typeface,
  _world_shapes,
  _world_tool,
  tool,
)

_MOST_LETTERS = 4
_INK = 0.5
_BLACK, _WHITE = 20.0, 245.0  # Brightness of printed letters.


class Tool(_world_tool.WorldTool):
  """ocr() -> the words of the patch, in reading order; "" if it has none.

  Knows the typeface (3 x 5 dots) and no words: each letter is the one whose
  dots are nearest.
  """

  spec = tool.Spec(
    call="ocr",
    version="1",
    arguments={},
    result="text",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    words = [
      read_word(_ink(self._image(call), thing))
      for thing in self._things(call)
      if thing.kind == _world_shapes.SIGN
    ]
    return " ".join(word for word in words if word)


def _ink(image, thing):
  """How far each pixel is from the paint's brightness to the letters'."""
  y1, x1, y2, x2 = thing.box_yxyx_px
  gray = image[y1:y2, x1:x2].mean(axis=2)
  is_paint = thing.coverage > 0.8
  if is_paint.all() or not is_paint.any():
    return np.zeros(gray.shape)
  paint = float(np.median(gray[is_paint]))
  letters = float(gray[thing.coverage <= thing.coverage.min() + 0.1].mean())
  full = _WHITE if letters > paint else _BLACK
  return np.clip((gray - paint) / (full - paint), 0, 1)


def read_word(ink: np.ndarray) -> str:
  """The word that explains a sign's dark (or light) dots best.

  Args:
    ink: float32[h, w] over the sign's box, 1 where there is no paint.

  Returns:
    1 to 4 letters; "" if there is too little ink for one.
  """
  if (ink > _INK).sum() < 5:
    return ""
  tried = [
    _read(ink, length, shift)
    for length in range(1, _MOST_LETTERS + 1)
    for shift in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
  ]
  return min(tried)[1]


def _read(ink, length, shift):
  """(error per pixel, word) for a word of `length` letters at a place."""
  height, width = ink.shape
  scale = max(1, min((width - 1) // (4 * length), (height - 2) // 5))
  h, w = 5 * scale, (4 * length - 1) * scale
  y = (height - h) // 2 + shift[0]
  x = (width - w) // 2 + shift[1]
  if y < 0 or x < 0 or y + h > height or x + w > width:
    return float("inf"), ""
  letters, glyphs = _glyphs(scale)
  word = ""
  error = float((ink**2).sum())
  for i in range(length):
    left = x + 4 * scale * i
    cell = ink[y : y + h, left : left + 3 * scale]
    errors = ((glyphs - cell) ** 2).sum(axis=(1, 2))
    best = int(errors.argmin())
    word += letters[best]
    error += float(errors[best] - (cell**2).sum())
  return error, word


@functools.lru_cache(maxsize=16)
def _glyphs(scale):
  """Letters, and their dots as float32[letters, 5 * scale, 3 * scale]."""
  letters = tuple(_typeface.FONT)
  return letters, np.stack(
    [_typeface.word_mask(letter, scale) for letter in letters]
  ).astype(np.float32)
