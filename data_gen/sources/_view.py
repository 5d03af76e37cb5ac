"""What the question families share: a view of a scene, rules, choices.

Referents are unique: "the blue circle" is asked about only where there is
one. A is left of B when the horizontal centre of A's box lies beyond the left
edge of B's; likewise for the other three relations.

The reference rationale has one group of boxes, numbers or words per fact that
decides, joined by " ; ", and the answer last. Boxes of a group are joined by
" , "; a group without any is left out.
"""

import dataclasses
import itertools
import types
from collections.abc import Mapping, Sequence

import numpy as np

from data_gen.sources import _scene

RELATIONS = ("left", "right", "above", "below")


_RELATION_TEXTS = types.MappingProxyType(
  {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
  }
)


# How often a count is asked for, where the scene offers it.
_COUNT_WEIGHTS = (0.8, 1.0, 1.0, 1.0, 1.0)


Phrase = tuple[str, str]  # Colour, kind.


@dataclasses.dataclass(frozen=True)
class Asked:
  """A question, its answer, and the rationale that the scene gives."""

  family: str
  question: str
  answer: str
  reference_rationale: str


@dataclasses.dataclass(frozen=True)
class Rules:
  """What a split may ask.

  Attributes:
    anchors: phrases that relations may start from; None: every phrase but
      those in `held_out`.
    held_out: phrases that are not mentioned (unless they are in `anchors`).
    relations: per family, the relations (for "two": pairs, the outer one
      first) that it may use; a family that is absent may use all.
  """

  anchors: frozenset[Phrase] | None
  held_out: frozenset[Phrase]
  relations: Mapping[str, Sequence]


class View:
  """A scene with its relations and unique phrases looked up."""

  def __init__(self, scene: _scene.Scene, setting: _scene.Setting):
    self.objects = scene.objects
    self.setting = setting
    self.by_phrase: dict[Phrase, list[int]] = {}
    self.boxes = [" ".join(map(str, o.box)) for o in scene.objects]
    for i, o in enumerate(scene.objects):
      self.by_phrase.setdefault((o.color, o.kind), []).append(i)
    self._margin_px = max(1, scene.image_px // 48)
    self._related = {
      relation: [self._find_related(relation, o) for o in scene.objects]
      for relation in RELATIONS
    }

  def related(self, relation: str, anchor: int) -> list[int] | None:
    """Objects in the relation to an anchor; None if one is a near miss."""
    return self._related[relation][anchor]

  def _find_related(self, relation, anchor):
    y1, x1, y2, x2 = anchor.box_yxyx_px
    found = []
    for i, o in enumerate(self.objects):
      if o is anchor:
        continue
      a, b, c, d = o.box_yxyx_px
      if relation == "left":
        beyond = x1 - (b + d) / 2
      elif relation == "right":
        beyond = (b + d) / 2 - x2
      elif relation == "above":
        beyond = y1 - (a + c) / 2
      else:
        beyond = (a + c) / 2 - y2
      if abs(beyond) < self._margin_px:
        return None
      if beyond > 0:
        found.append(i)
    return found

  def select(self, color: str = "", kind: str = "", among=None) -> list[int]:
    """Objects of a colour, a kind, both or neither, in reading order."""
    among = range(len(self.objects)) if among is None else among
    return [
      i
      for i in among
      if color in ("", self.objects[i].color)
      and kind in ("", self.objects[i].kind)
    ]

  def unique_phrases(self, rules: Rules) -> list[int]:
    """Objects that a phrase of the rules singles out."""
    return [
      found[0]
      for phrase, found in self.by_phrase.items()
      if len(found) == 1 and phrase not in rules.held_out
    ]

  def anchors(self, rules: Rules) -> list[int]:
    """Objects that a relation may start from."""
    if rules.anchors is None:
      return self.unique_phrases(rules)
    return [
      found[0]
      for phrase, found in self.by_phrase.items()
      if len(found) == 1 and phrase in rules.anchors
    ]


class Draw:
  """Random choices with plain Python results."""

  def __init__(self, rng: np.random.Generator, phrasings: int):
    """Initialises.

    Args:
      rng: where chance comes from.
      phrasings: how many ways of saying each thing are used.
    """
    self._rng, self._phrasings = rng, phrasings

  def chance(self) -> float:
    """Uniform in 0..1."""
    return float(self._rng.random())

  def pick(self, options: Sequence):
    """One of the options."""
    return options[int(self._rng.random() * len(options))]

  def words(self, options: Sequence[str]) -> str:
    """One of the ways of saying a thing that are in use."""
    return self.pick(options[: self._phrasings])

  def weighted(self, options: Sequence, weights: Sequence[float]):
    """One of the options, by weight."""
    at = float(self._rng.random()) * sum(weights)
    for option, weight in zip(options, weights):
      at -= weight
      if at < 0:
        return option
    return options[-1]

  def relation(self, name: str) -> str:
    """Words for a relation."""
    return self.words(_RELATION_TEXTS[name])


def plural(noun: str) -> str:
  """The noun's plural."""
  return noun + ("es" if noun.endswith("s") else "s")


def short(groups: Sequence[Sequence[str]], answer: str) -> str:
  """Joins groups of boxes or values, and the answer, as a rationale.

  >>> short([["1 2 3 4"], [], ["5 6 7 8", "5 9 7 9"], ["2"]], "2")
  '1 2 3 4 ; 5 6 7 8 , 5 9 7 9 ; 2 ; 2'
  """
  return " ; ".join([" , ".join(group) for group in groups if group] + [answer])


def phrase(o):
  return f"{o.color} {o.kind}"


def asked(view, family, question, answer, *groups):
  """Groups hold indices of objects, or texts."""
  texts = [
    [view.boxes[g] if isinstance(g, int) else g for g in group]
    for group in groups
  ]
  return Asked(family, question, answer, short(texts, answer))


def nouns(view):
  """Things to count: (plural text, colour, kind)."""
  setting = view.setting
  return [
    ("things", "", ""),
    *((plural(kind), "", kind) for kind in setting.kinds),
    *((f"{color} things", color, "") for color in setting.colors),
  ]


def pick_by_count(draw, found):
  """One of `found`, whose first item is a count; counts about equally."""
  counts = sorted({f[0] for f in found if f[0] < len(_COUNT_WEIGHTS)})
  if not counts:
    return None
  count = draw.weighted(counts, [_COUNT_WEIGHTS[c] for c in counts])
  return draw.pick([f for f in found if f[0] == count])


def pairs(view, rules):
  """Statements "the A is left of the B": (is true, a, b, relation)."""
  unique = view.unique_phrases(rules)
  found = []
  for a, b in itertools.permutations(unique, 2):
    for relation in RELATIONS:
      related = view.related(relation, b)
      if related is not None:
        found.append((a in related, a, b, relation))
  return found


def yes(is_true):
  return "yes" if is_true else "no"
