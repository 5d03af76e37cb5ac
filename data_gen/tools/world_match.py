"""Scores how well texts fit a patch of the embedded world."""

from collections.abc import Sequence

from data_gen.tools import (
  _world_center,
  _world_language,
  _world_pixels,
  _world_tool,
  tool,
)

_NEXT_THING = 0.9  # What a thing counts, against the next more central one.


class Tool(_world_tool.WorldTool):
  """match_scores(texts) -> a score in 0..1 for each text.

  Only colours and kinds count: of "a red square above" it reads "red square".
  """

  spec = tool.Spec(
    call="match_scores",
    version="1",
    arguments={"texts": list},
    result="numbers",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    things = _world_center.most_central_first(self._things(call), call.box)
    return [score(text, things) for text in call.arguments["texts"]]


def score(text: str, things: Sequence[_world_pixels.Thing]) -> float:
  """How well a text fits the things in a patch, the most central first.

  Returns:
    The best over the things: the share of the text's colour and kind that the
    thing has, less for a thing off the middle. 0 for a text without either.
  """
  whole = _world_language.phrase(text)
  phrases = [whole] if whole else _world_language.phrases_in(text)
  if not phrases:
    return 0.0
  return max(
    (
      _fit(thing, phrases[0]) * _NEXT_THING**rank
      for rank, thing in enumerate(things)
    ),
    default=0.0,
  )


def _fit(thing, wanted):
  color, kind = wanted
  held = [color == thing.color] * bool(color) + [kind == thing.kind] * bool(
    kind
  )
  return sum(held) / len(held) if held else 1.0
