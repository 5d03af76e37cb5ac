"""Finds the embedded world's things that a noun names, by their pixels."""

from data_gen.tools import _world_language, _world_tool, tool


class Tool(_world_tool.WorldTool):
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
    batch_limit=64,
  )

  def _run(self, call):
    wanted = _world_language.phrase(call.arguments["object_name"])
    if wanted is None:
      return []
    found = _world_language.select(self._things(call), wanted)
    return [list(thing.box) for thing in found]
