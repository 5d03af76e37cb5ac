"""Tells whether a thing of the embedded world is as a word says."""

from data_gen.tools import _world_center, _world_language, _world_tool, tool


class Tool(_world_tool.WorldTool):
  """verify_property(object_name, attribute) -> bool.

  The attribute is a colour, a kind, or both: "red", "square", "red square".
  Of several things with the name it means the one nearest to the patch's
  middle; where there is none, nothing holds.
  """

  spec = tool.Spec(
    call="verify_property",
    version="1",
    arguments={"object_name": str, "attribute": str},
    result="bool",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    attribute = call.arguments["attribute"]
    wanted = _world_language.phrase(attribute)
    if wanted in (None, ("", "")):
      raise ValueError(
        f"cannot verify {attribute!r}; ask for a color, a shape, or both."
      )
    named = _world_language.phrase(call.arguments["object_name"])
    if named is None:
      return False
    things = _world_center.most_central_first(self._things(call), call.box)
    meant = _world_language.select(things, named)[:1]
    return bool(_world_language.select(meant, wanted))
