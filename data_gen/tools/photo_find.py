"""Finds things in photographs with the detectors that are installed."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import _memory, _photo_detectors, _regions, tool


class Tool:
  """find(object_name) -> boxes of the whole image, in reading order.

  Knows faces, people, eyes, cats, coins, lights, lines and words of text, and
  areas of a colour ("red object"). Another name is an error, not an empty
  list: that there is no detector says nothing about the picture.
  """

  spec = tool.Spec(
    call="find",
    version="1",
    arguments={"object_name": str},
    result="boxes",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._found: _memory.Memory[list[list[int]]] = _memory.Memory()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    name = call.arguments["object_name"].lower().strip()
    boxes = self._found.get(
      (call.image_key, name), lambda: find(call.image, name)
    )
    return [list(box) for box in boxes if _regions.inside(box, call.box)]


def find(image, name: str) -> list[list[int]]:
  """Grid boxes of what is called `name` in the whole image."""
  boxes = _photo_detectors.detect(image, name)
  return _regions.in_reading_order(
    [_regions.to_grid(image.shape, box) for box in boxes]
  )
