"""Tells whether something in a photograph has a colour, or is dark."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_gen.tools import _photo_colors, _photo_words, tool

_DARK_BELOW = 110  # Median of the brightest channel, as for the VQA tool.


class Tool:
  """verify_property(object_name, attribute) -> bool.

  Looks at the largest thing with the name where there is a detector for it,
  and at the whole patch else. A colour holds if it is the one that covers
  most, or the most vivid large one.
  """

  spec = tool.Spec(
    call="verify_property",
    version="1",
    arguments={"object_name": str, "attribute": str},
    result="bool",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._finder = _photo_words.Finder()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    attribute = call.arguments["attribute"].lower().strip()
    attribute = "gray" if attribute == "grey" else attribute
    is_color = _photo_colors.is_name(attribute)
    if not is_color and attribute not in ("dark", "bright"):
      raise ValueError(
        f"cannot verify {attribute!r}; ask for dark, bright, or one of"
        f" {', '.join(_photo_colors.NAMES)}."
      )
    noun = _photo_words.read(call.arguments["object_name"]).noun
    box = self._finder.largest(call, noun) if noun else call.box
    if box is None:
      return False
    pixels = _photo_words.pixels(call, box)
    if is_color:
      return attribute in (
        _photo_colors.main_name(pixels),
        _photo_colors.most_vivid_name(pixels),
      )
    is_dark = float(np.median(pixels.max(axis=2))) < _DARK_BELOW
    return is_dark == (attribute == "dark")
