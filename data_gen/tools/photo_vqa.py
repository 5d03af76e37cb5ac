"""Answers simple questions about a patch of a photograph.

It names colours, counts and finds what there are detectors for, and tells
colour pictures from black and white ones, day from night. It is a weak
answerer and says so by an error where it has nothing to go by.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_gen.tools import (
  _memory,
  _photo_colors,
  _photo_detectors,
  _regions,
  photo_find,
  tool,
)

_ABOVE = ("sky", "ceiling")
_BELOW = ("ground", "floor", "grass", "table", "road")
_AROUND = ("background",)
_ANIMALS = ("cat", "person")


class Tool:
  """visual_question_answering(question) -> a word."""

  spec = tool.Spec(
    call="visual_question_answering",
    version="1",
    arguments={"question": str},
    result="text",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._found: _memory.Memory[list[list[int]]] = _memory.Memory()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    question = call.arguments["question"].lower().strip().rstrip("?. ")
    for pattern, answer in (
      (r"what colou?r (?:is|are) (.+)", self._color),
      (r"how many (.+)", self._count),
      (r"(?:is|are) there (?:an? |any )?(.+)", self._exists),
      (r"what (?:animal|creature) .*", self._animal),
      (r"is (?:it|this|the (?:picture|photo|image)) (.+)", self._photo),
    ):
      match = re.fullmatch(pattern, question)
      if match:
        return answer(call, *match.groups())
    raise ValueError(
      f"cannot answer {question!r}; ask what color, how many, whether there"
      " is one, what animal, or whether the picture is in color or dark."
    )

  def _find(self, call, name):
    name = re.sub(r"^(the|a|an|any) ", "", name)
    name = re.sub(r" (in|on|at|are|can|is|of) .*| (there|visible)$", "", name)
    boxes = self._found.get(
      (call.image_key, name), lambda: photo_find.find(call.image, name)
    )
    return [box for box in boxes if _regions.inside(box, call.box)]

  def _color(self, call, noun):
    noun = noun.removeprefix("the ")
    words = set(noun.split())
    patch = _regions.crop(call.image, call.box)
    height = len(patch)
    if words & {*_AROUND}:
      return _photo_colors.main_name(_rim(patch))
    if words & {*_ABOVE}:
      return _photo_colors.main_name(patch[: max(1, height // 4)])
    if words & {*_BELOW}:
      return _photo_colors.main_name(patch[-max(1, height // 4) :])
    if noun in ("it", "this", "that", "this area"):
      return _photo_colors.main_name(patch)
    if noun in _photo_detectors.known_nouns():
      boxes = self._find(call, noun)
      if boxes:
        patch = _regions.crop(call.image, _largest(boxes))
    return _photo_colors.most_vivid_name(patch)

  def _count(self, call, noun):
    return str(len(self._find(call, noun)))

  def _exists(self, call, noun):
    return "yes" if self._find(call, noun) else "no"

  def _animal(self, call):
    for noun in _ANIMALS:
      if self._find(call, noun):
        return noun
    return "none"

  def _photo(self, call, what):
    patch = _regions.crop(call.image, call.box)
    if re.search(r"day or night|night or day", what):
      return "night" if _is_dark(patch) else "day"
    if re.search(r"dark|night", what):
      return "yes" if _is_dark(patch) else "no"
    if re.search(r"bright|day", what):
      return "no" if _is_dark(patch) else "yes"
    if re.search(r"black and white|gr[ae]y", what):
      return "no" if _is_colored(patch) else "yes"
    if re.search(r"colou?r", what):
      return "yes" if _is_colored(patch) else "no"
    first = what.split()[0]
    if _photo_colors.is_name(first):
      return "yes" if first == _photo_colors.main_name(patch) else "no"
    return self._exists(call, what)


def _largest(boxes: list[list[int]]) -> _regions.GridBox:
  y1, x1, y2, x2 = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
  return y1, x1, y2, x2


def _rim(patch):
  """The outermost tenth on the left and right, as one strip."""
  width = max(1, patch.shape[1] // 10)
  return np.concatenate([patch[:, :width], patch[:, -width:]], axis=1)


def _is_dark(patch):
  return float(np.median(patch.max(axis=2))) < 110


def _is_colored(patch):
  spread = patch.max(axis=2).astype(int) - patch.min(axis=2)
  return float(np.mean(spread > 20)) > 0.05
