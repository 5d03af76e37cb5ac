"""Describes a patch of the embedded world in a few words."""

from data_gen.tools import _world_language, _world_tool, tool


class Tool(_world_tool.WorldTool):
  """image_caption() -> such as "a red square and a blue circle"."""

  spec = tool.Spec(
    call="image_caption",
    version="1",
    arguments={},
    result="text",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    names = [_world_language.describe(thing) for thing in self._things(call)]
    if not names:
      return "an empty background"
    named = [f"an {n}" if n[0] in "aeiou" else f"a {n}" for n in names]
    head = ", ".join(named[:-1])
    return f"{head} and {named[-1]}" if head else named[-1]
