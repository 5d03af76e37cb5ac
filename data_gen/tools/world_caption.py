"""Describes a patch of the embedded world in a few words."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import _regions, _world_language, _world_pixels, tool


class Tool:
  """image_caption() -> such as "a red square and a blue circle"."""

  spec = tool.Spec(
    call="image_caption",
    version="1",
    arguments={},
    result="text",
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
    names = [
      _world_language.describe(thing)
      for thing in _world_pixels.things_of(call.image, self._vocabulary)
      if _regions.inside(thing.box, call.box)
    ]
    if not names:
      return "an empty background"
    named = [f"an {n}" if n[0] in "aeiou" else f"a {n}" for n in names]
    head = ", ".join(named[:-1])
    return f"{head} and {named[-1]}" if head else named[-1]
