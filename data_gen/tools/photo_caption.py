"""Describes a patch of a photograph by what the detectors find in it."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import (
  _memory,
  _photo_colors,
  _regions,
  photo_find,
  tool,
)

_NOUNS = (
  ("face", "faces"),
  ("cat", "cats"),
  ("coin", "coins"),
)


class Tool:
  """image_caption() -> such as "a mostly orange picture with 1 face"."""

  spec = tool.Spec(
    call="image_caption",
    version="1",
    arguments={},
    result="text",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._found: _memory.Memory[list[list[int]]] = _memory.Memory()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    color = _photo_colors.main_name(_regions.crop(call.image, call.box))
    parts = []
    for one, many in _NOUNS:
      boxes = self._found.get(
        (call.image_key, one),
        lambda noun=one: photo_find.find(call.image, noun),
      )
      count = sum(_regions.inside(box, call.box) for box in boxes)
      if count:
        parts.append(f"{count} {one if count == 1 else many}")
    return f"a mostly {color} picture" + (
      f" with {' and '.join(parts)}" if parts else ""
    )
