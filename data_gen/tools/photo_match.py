"""Scores how well texts fit a patch of a photograph."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import (
  _photo_colors,
  _photo_detectors,
  _photo_words,
  tool,
)


class Tool:
  """match_scores(texts) -> a score in 0..1 for each text.

  Only the colours of a text count, and the noun that there is a detector for.
  A noun scores 0 where it is not found, else from 0.5 to 1 by how much of the
  patch it fills; a colour scores what it covers of that thing, or of the
  patch; the score is the mean. A text without either is an error: that there
  is no detector says nothing about the picture.
  """

  spec = tool.Spec(
    call="match_scores",
    version="1",
    arguments={"texts": list},
    result="numbers",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._finder = _photo_words.Finder()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [
      [self._score(call, text) for text in call.arguments["texts"]]
      for call in calls
    ]

  def _score(self, call, text):
    words = _photo_words.read(text)
    if words.is_empty:
      raise ValueError(
        f"cannot match {text!r}; name a color ({', '.join(_photo_colors.NAMES)})"
        f" or one of {', '.join(_photo_detectors.known_nouns())}."
      )
    box, parts = call.box, []
    if words.noun:
      found = self._finder.largest(call, words.noun)
      if found is None:
        return 0.0
      share = _photo_words.area(found) / max(1, _photo_words.area(box))
      box = found
      parts.append(0.5 + share / 2)
    if words.colors:
      shares = _photo_colors.shares(_photo_words.pixels(call, box))
      parts += [shares[color] for color in words.colors]
    return sum(parts) / len(parts)
