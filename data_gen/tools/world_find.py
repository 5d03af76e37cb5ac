"""Finds the embedded world's things that a noun names, by their pixels."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import _regions, _world_language, _world_pixels, tool


class Tool:
  """find(object_name) -> boxes of the whole image, in reading order.

  Takes "square", "red squares", "object", "blue thing". A thing belongs to
  the patch that its centre is in. What it has no word for, it does not find.
  """

  spec = tool.Spec(
    call="find",
    version="1",
    arguments={"object_name": str},
    result="boxes",
    uses_pixels=True,
  )

  def __init__(
    self,
    *,
    colors: Sequence[str] = _world_pixels.USUAL_COLORS,
    kinds: Sequence[str] = _world_pixels.USUAL_KINDS,
  ):
    self._vocabulary = _world_pixels.Vocabulary(tuple(colors), tuple(kinds))

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    wanted = _world_language.phrase(call.arguments["object_name"])
    if wanted is None:
      return []
    things = _world_pixels.things_of(call.image, self._vocabulary)
    return [
      list(thing.box)
      for thing in _world_language.select(things, wanted)
      if _regions.inside(thing.box, call.box)
    ]
