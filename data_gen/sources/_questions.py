"""Asks questions about a scene whose answers follow from what is in it.

Each family is a function `(view, rules, draw) -> Asked | None`; None means
that this scene has no such question. Here are the quickstart's families and
the table of all.
"""

import itertools
import types
from collections.abc import Callable, Mapping

from data_gen.sources import _more_questions, _view


def _relations(rules, family):
  return rules.relations.get(family, _view.RELATIONS)


def _targets(view, among):
  """Objects that their kind, or colour, singles out: (index, noun, asked)."""
  found = []
  for i in among:
    o = view.objects[i]
    if len(view.select(kind=o.kind, among=among)) == 1:
      found.append((i, o.kind, "color"))
    if len(view.select(color=o.color, among=among)) == 1:
      found.append((i, f"{o.color} thing", "shape"))
  return found


_ATTRIBUTE_TEXTS = types.MappingProxyType(
  {
    "color": (
      "What color is the {np}?",
      "What is the color of the {np}?",
      "The {np} is what color?",
    ),
    "shape": (
      "What shape is the {np}?",
      "What is the shape of the {np}?",
      "The {np} has what shape?",
    ),
  }
)


def _ask_attribute(view, family, draw, target, asked, noun_phrase, *groups):
  o = view.objects[target]
  return _view.asked(
    view,
    family,
    draw.words(_ATTRIBUTE_TEXTS[asked]).format(np=noun_phrase),
    o.color if asked == "color" else o.kind,
    *groups,
    [target],
  )


def _attr(view, rules, draw):
  """What color is the square left of the blue circle?"""
  found = []
  for anchor in view.anchors(rules):
    for relation in _relations(rules, "attr"):
      for target in _targets(view, view.related(relation, anchor) or ()):
        found.append((anchor, relation, *target))
  if not found:
    return None
  anchor, relation, target, noun, asked = draw.pick(found)
  link = draw.words(("", "that is "))
  anchor_text = _view.phrase(view.objects[anchor])
  text = f"{noun} {link}{draw.relation(relation)} the {anchor_text}"
  return _ask_attribute(view, "attr", draw, target, asked, text, [anchor])


def _two(view, rules, draw):
  """What color is the square above the circle right of the blue cross?"""
  found = []
  pairs = rules.relations.get(
    "two", list(itertools.product(_view.RELATIONS, repeat=2))
  )
  for anchor in view.anchors(rules):
    for outer, inner in pairs:
      near = view.related(inner, anchor) or ()
      for middle in near:
        kind = view.objects[middle].kind
        if len(view.select(kind=kind, among=near)) != 1:
          continue
        far = view.related(outer, middle) or ()
        for target in _targets(view, far):
          if target[0] != anchor:
            found.append((anchor, inner, middle, outer, *target))
  if not found:
    return None
  anchor, inner, middle, outer, target, noun, asked = draw.pick(found)
  link = draw.words(("", "that is "))
  text = (
    f"{noun} {draw.relation(outer)} the {view.objects[middle].kind}"
    f" {link}{draw.relation(inner)} the {_view.phrase(view.objects[anchor])}"
  )
  return _ask_attribute(
    view, "two", draw, target, asked, text, [anchor], [middle]
  )


def _count(view, rules, draw):
  """How many squares are left of the blue circle?"""
  found = []
  nouns = _view.nouns(view)
  for anchor in view.anchors(rules):
    for relation in _relations(rules, "count"):
      near = view.related(relation, anchor)
      if near is None:
        continue
      for noun in nouns:
        passing = view.select(noun[1], noun[2], near)
        found.append((len(passing), passing, anchor, relation, noun[0]))
  picked = _view.pick_by_count(draw, found)
  if picked is None:
    return None
  count, passing, anchor, relation, noun = picked
  text = draw.words(
    (
      "How many {x} are {r} the {a}?",
      "How many {x} are there {r} the {a}?",
      "Count the {x} {r} the {a}.",
    )
  ).format(
    x=noun, r=draw.relation(relation), a=_view.phrase(view.objects[anchor])
  )
  return _view.asked(view, "count", text, str(count), [anchor], passing)


def _cmp(view, rules, draw):
  """Are there more squares than circles?"""
  del rules  # Mentions no phrase and no relation.
  nouns = _view.nouns(view)[1:]
  found = {True: [], False: []}
  for a, b in itertools.permutations(nouns, 2):
    if bool(a[1]) != bool(b[1]):  # Colours with colours, kinds with kinds.
      continue
    first, second = view.select(a[1], a[2]), view.select(b[1], b[2])
    if first or second:
      found[len(first) > len(second)].append((a[0], b[0], first, second))
  is_more = draw.chance() < 0.5
  if not found[is_more]:
    return None
  a, b, first, second = draw.pick(found[is_more])
  text = draw.words(
    (
      "Are there more {a} than {b}?",
      "Is the number of {a} greater than the number of {b}?",
      "Do the {a} outnumber the {b}?",
    )
  ).format(a=a, b=b)
  counts = f"{len(first)} {len(second)}"
  answer = "yes" if is_more else "no"
  return _view.asked(
    view, "cmp", text, answer, first or ["none"], second or ["none"], [counts]
  )


def _and2(view, rules, draw):
  """Is the red square left of the blue circle and the ... below the ...?"""
  pairs = _view.pairs(view, rules)
  wanted = (
    (True, True)
    if draw.chance() < 0.5
    else draw.pick(((True, False), (False, True), (False, False)))
  )
  chosen = []
  for is_true in wanted:
    # Not the same two things twice: one half would say the other.
    options = [
      p
      for p in pairs
      if p[0] is is_true
      and not (chosen and {p[1], p[2]} == {chosen[0][1], chosen[0][2]})
    ]
    if not options:
      return None
    chosen.append(draw.pick(options))
  (_, a, b, r1), (_, c, d, r2) = chosen
  text = draw.words(
    (
      "Is the {a} {r1} the {b} and the {c} {r2} the {d}?",
      "Is it true that the {a} is {r1} the {b} and the {c} is {r2} the {d}?",
    )
  ).format(
    **{k: _view.phrase(view.objects[i]) for k, i in zip("abcd", (a, b, c, d))},
    r1=draw.relation(r1),
    r2=draw.relation(r2),
  )
  return _view.asked(
    view,
    "and2",
    text,
    _view.yes(all(wanted)),
    [a, b],
    [_view.yes(wanted[0])],
    [c, d],
    [_view.yes(wanted[1])],
  )


Family = Callable[[_view.View, _view.Rules, _view.Draw], _view.Asked | None]


FAMILIES: Mapping[str, Family] = types.MappingProxyType(
  {
    "attr": _attr,
    "two": _two,
    "count": _count,
    "cmp": _cmp,
    "and2": _and2,
    "rel": _more_questions.ask_rel,
    "logical": _more_questions.ask_logical,
    "tsimple": _more_questions.ask_tsimple,
    "tcomplex": _more_questions.ask_tcomplex,
    "text": _more_questions.ask_text,
    "fact": _more_questions.ask_fact,
    "depth": _more_questions.ask_depth,
  }
)
