"""What a text says about a patch of a photograph that pixels can show."""

import dataclasses
import re

import numpy as np

from data_gen.tools import (
  _memory,
  _photo_colors,
  _photo_detectors,
  _regions,
  photo_find,
  tool,
)


@dataclasses.dataclass(frozen=True)
class Words:
  """The words of a text that can be checked.

  Attributes:
    noun: one that there is a detector for, or "".
    colors: names of colours, in order.
  """

  noun: str
  colors: tuple[str, ...]

  @property
  def is_empty(self) -> bool:
    """Whether nothing can be checked."""
    return not self.noun and not self.colors


def read(text: str) -> Words:
  """The longest noun and all colours of a text.

  >>> read("two red coins on a table")
  Words(noun='coins', colors=('red',))
  """
  text = text.lower()
  nouns = sorted(_photo_detectors.known_nouns(), key=len, reverse=True)
  found = (n for n in nouns if re.search(rf"\b{re.escape(n)}\b", text))
  colors = filter(_photo_colors.is_name, re.findall(r"[a-z]+", text))
  return Words(
    next(found, ""), tuple("gray" if c == "grey" else c for c in colors)
  )


class Finder:
  """Detections in patches; those of the last few images are remembered."""

  def __init__(self):
    self._found: _memory.Memory[list[list[int]]] = _memory.Memory()

  def largest(self, call: tool.Call, noun: str) -> _regions.GridBox | None:
    """The box of the largest `noun` in the call's patch, cut at the patch;
    None if there is none."""
    boxes = self._found.get(
      (call.image_key, noun), lambda: photo_find.find(call.image, noun)
    )
    cut = [
      (
        max(box[0], call.box[0]),
        max(box[1], call.box[1]),
        min(box[2], call.box[2]),
        min(box[3], call.box[3]),
      )
      for box in boxes
      if _regions.inside(box, call.box)
    ]
    return max(cut, key=area, default=None)


def area(box: _regions.GridBox) -> int:
  """In units of the grid."""
  return (box[2] - box[0]) * (box[3] - box[1])


def pixels(call: tool.Call, box: _regions.GridBox) -> np.ndarray:
  """uint8[h, w, 3]: what a box of the call's image shows."""
  assert call.image is not None  # The host gives one where pixels are used.
  return _regions.crop(call.image, box)
