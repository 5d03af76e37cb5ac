"""Words of the embedded world: noun phrases that name some of its things."""

import re
from collections.abc import Sequence

from data_gen.tools import _world_pixels, _world_shapes

_ANY = ("thing", "object", "shape", "item", "figure", "one")
_SYNONYMS = (
  ("disc", "circle"),
  ("disk", "circle"),
  ("plus", "cross"),
  ("plate", "sign"),
)
_ARTICLES = ("a", "an", "the", "any", "some", "all", "every")

Phrase = tuple[str, str]  # Colour, kind; "" for any.


def phrase(name: str) -> Phrase | None:
  """Reads a noun phrase; None if it names nothing of this world.

  >>> phrase("red squares"), phrase("the blue thing"), phrase("dog")
  (('red', 'square'), ('blue', ''), None)
  """
  words = [w for w in _words(name) if w not in _ARTICLES]
  color = ""
  if words and words[0] in _world_pixels.COLORS:
    color = words.pop(0)
  if not words:
    return (color, "") if color else None
  noun = _noun(words[0])
  return None if len(words) > 1 or noun is None else (color, noun)


def phrases_in(text: str) -> list[Phrase]:
  """The noun phrases of a sentence, in order.

  >>> phrases_in("Is the red square left of a circle?")
  [('red', 'square'), ('', 'circle')]
  """
  found = []
  color = ""
  for word in _words(text):
    noun = _noun(word)
    if word in _world_pixels.COLORS:
      color = word
      continue
    if noun is not None and word not in ("shape", "one"):
      found.append((color, noun))
    color = ""
  return found


def select(
  things: Sequence[_world_pixels.Thing], wanted: Phrase
) -> list[_world_pixels.Thing]:
  """The things that a phrase names."""
  color, kind = wanted
  return [t for t in things if color in ("", t.color) and kind in ("", t.kind)]


def describe(thing: _world_pixels.Thing) -> str:
  """Such as "red square"."""
  return f"{thing.color} {thing.kind}"


def _words(text):
  return re.findall(r"[a-z]+", text.lower())


def _noun(word):
  """The singular: a kind, or "" for a word that names any thing."""
  for singular in _singulars(word):
    singular = dict(_SYNONYMS).get(singular, singular)
    if singular in _ANY:
      return ""
    if singular in _world_shapes.KINDS:
      return singular
  return None


def _singulars(word):
  yield word
  if word.endswith("es"):
    yield word[:-2]
  if word.endswith("s"):
    yield word[:-1]
