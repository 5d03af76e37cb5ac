"""Families of questions beyond the quickstart's.

Relations alone, logic, counts as in TallyQA, text as in TextVQA, facts about
kinds as in OK-VQA, and depth.
"""

import itertools
import types

from data_gen.sources import _scene, _view

# What the embedded world knows of its kinds.
CORNERS = types.MappingProxyType(
  {
    "square": 4,
    "circle": 0,
    "triangle": 3,
    "cross": 12,
    "diamond": 4,
    "ring": 0,
    "star": 8,
  }
)
ROLLING = ("circle", "ring")


def ask_rel(view, rules, draw):
  """Is the red square left of the blue circle?"""
  is_true = draw.chance() < 0.5
  options = [p for p in _view.pairs(view, rules) if p[0] is is_true]
  if not options:
    return None
  _, a, b, relation = draw.pick(options)
  text = draw.words(
    ("Is the {a} {r} the {b}?", "Is it true that the {a} is {r} the {b}?")
  ).format(
    a=_view.phrase(view.objects[a]),
    b=_view.phrase(view.objects[b]),
    r=draw.relation(relation),
  )
  return _view.asked(view, "rel", text, _view.yes(is_true), [a, b])


def ask_logical(view, rules, draw):
  """Is there a red square or a blue circle?"""
  setting = view.setting
  here = [p for p in view.by_phrase if p not in rules.held_out]
  absent = [
    p
    for p in itertools.product(setting.colors, setting.kinds)
    if p not in view.by_phrase and p not in rules.held_out
  ]
  word, is_true = draw.pick(("and", "or")), draw.chance() < 0.5
  # One of each decides "and" as no, "or" as yes; else both are alike.
  if is_true == (word == "and") or draw.chance() < 0.3:
    options = [here if is_true else absent] * 2
  else:
    options = draw.pick(((here, absent), (absent, here)))
  if not all(options):
    return None
  a, b = (draw.pick(o) for o in options)
  if a == b:
    return None
  text = draw.words(
    ("Is there {a} {w} {b}?", "Does the image show {a} {w} {b}?")
  ).format(a=_with_article(a), b=_with_article(b), w=word)
  first, second = view.select(*a), view.select(*b)
  return _view.asked(
    view,
    "logical",
    text,
    _view.yes(is_true),
    first or ["none"],
    second or ["none"],
  )


def _with_article(phrase):
  return f"{'an' if phrase[0][0] in 'aeiou' else 'a'} {' '.join(phrase)}"


def ask_tsimple(view, rules, draw):
  """How many red squares are there?"""
  setting = view.setting
  nouns = _view.nouns(view) + [
    (f"{color} {_view.plural(kind)}", color, kind)
    for color, kind in itertools.product(setting.colors, setting.kinds)
    if (color, kind) not in rules.held_out
  ]
  found = []
  for noun, color, kind in nouns:
    passing = view.select(color, kind)
    found.append((len(passing), passing, noun))
  picked = _view.pick_by_count(draw, found)
  if picked is None:
    return None
  count, passing, noun = picked
  text = draw.words(
    (
      "How many {x} are there?",
      "Count the {x}.",
      "How many {x} are in the image?",
    )
  ).format(x=noun)
  return _view.asked(view, "tsimple", text, str(count), passing or ["none"])


def ask_tcomplex(view, rules, draw):
  """How many things are left of the red square and below the blue circle?"""
  found = []
  anchors = view.anchors(rules)
  for a, b in itertools.permutations(anchors, 2):
    for r1, r2 in itertools.permutations(_view.RELATIONS, 2):
      first, second = view.related(r1, a), view.related(r2, b)
      if first is None or second is None:
        continue
      both = [i for i in first if i in second]
      for noun, color, kind in _view.nouns(view):
        passing = view.select(color, kind, both)
        # Zero only where one of the halves alone would count something.
        if passing or view.select(color, kind, first):
          found.append((len(passing), passing, a, b, r1, r2, noun))
  picked = _view.pick_by_count(draw, found)
  if picked is None:
    return None
  count, passing, a, b, r1, r2, noun = picked
  text = draw.words(
    (
      "How many {x} are {r1} the {a} and {r2} the {b}?",
      "Count the {x} {r1} the {a} and {r2} the {b}.",
    )
  ).format(
    x=noun,
    a=_view.phrase(view.objects[a]),
    b=_view.phrase(view.objects[b]),
    r1=draw.relation(r1),
    r2=draw.relation(r2),
  )
  return _view.asked(view, "tcomplex", text, str(count), [a, b], passing)


def ask_text(view, rules, draw):
  """What word is on the red sign?"""
  del rules
  signs = view.select(kind=_scene.SIGN)
  found = [
    i
    for i in signs
    if len(view.by_phrase[view.objects[i].color, _scene.SIGN]) == 1
  ]
  if not found:
    return None
  sign = draw.pick(found)
  o = view.objects[sign]
  text = draw.words(
    (
      "What word is on the {c} sign?",
      "What does the {c} sign say?",
      "What is written on the {c} sign?",
    )
  ).format(c=o.color)
  return _view.asked(view, "text", text, o.word, [sign])


def ask_fact(view, rules, draw):
  """How many corners does the red thing left of the blue circle have?"""
  found = []
  for anchor in view.anchors(rules):
    for relation in _view.RELATIONS:
      near = view.related(relation, anchor) or ()
      for i in near:
        o = view.objects[i]
        if o.kind in CORNERS and len(view.select(o.color, among=near)) == 1:
          found.append((anchor, relation, i))
  if not found:
    return None
  is_rolling = draw.chance() < 0.5
  if is_rolling:
    want = draw.chance() < 0.5
    found = [f for f in found if (view.objects[f[2]].kind in ROLLING) is want]
    if not found:
      return None
  anchor, relation, target = draw.pick(found)
  o = view.objects[target]
  noun_phrase = (
    f"{o.color} thing {draw.relation(relation)}"
    f" the {_view.phrase(view.objects[anchor])}"
  )
  if is_rolling:
    text = draw.words(("Can the {np} roll?", "Would the {np} roll?"))
    answer = _view.yes(o.kind in ROLLING)
  else:
    text = draw.words(
      (
        "How many corners does the {np} have?",
        "What is the number of corners of the {np}?",
      )
    )
    answer = str(CORNERS[o.kind])
  return _view.asked(
    view, "fact", text.format(np=noun_phrase), answer, [anchor], [target]
  )


def ask_depth(view, rules, draw):
  """Is the red square closer than the blue circle?"""
  is_true = draw.chance() < 0.5
  unique = view.unique_phrases(rules)
  found = [
    (a, b)
    for a, b in itertools.permutations(unique, 2)
    if (view.objects[a].depth < view.objects[b].depth) is is_true
    and abs(view.objects[a].depth - view.objects[b].depth) >= 0.2
  ]
  if not found:
    return None
  a, b = draw.pick(found)
  text = draw.words(
    (
      "Is the {a} closer than the {b}?",
      "Is the {a} nearer to the camera than the {b}?",
    )
  ).format(a=_view.phrase(view.objects[a]), b=_view.phrase(view.objects[b]))
  return _view.asked(view, "depth", text, _view.yes(is_true), [a, b])
