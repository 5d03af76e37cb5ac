"""The mistakes of a program writer: in the plan, or in the text.

Each is a function that returns None where it does not apply. The kinds follow
what is reported of LLM-written visual programs: missed steps, swapped
relations and attributes, invented calls, wrong arity, lists indexed without
need, broken syntax.
"""

import dataclasses
import random
import re
from collections.abc import Callable

from data_gen.llm import _grammar_parse as plans

_MIRRORED = (
  ("left", "right"),
  ("right", "left"),
  ("above", "below"),
  ("below", "above"),
)
_TURNED = (
  ("left", "above"),
  ("right", "below"),
  ("above", "left"),
  ("below", "right"),
)
_OPERATORS = ((">", (">=", "<", "!=")), ("<", (">",)), ("and", ("or",)))
_MISSPELT = (
  (".find(", ".find_all("),
  (".find(", ".detect("),
  (".visual_question_answering(", ".simple_query("),
  (".horizontal_center", ".center_x"),
  (".vertical_center", ".center_y"),
  ("formatting_answer(", "format_answer("),
  ("ImagePatch(image)", "ImagePatch()"),
)


def spoil_plan(plan: plans.Plan, rng: random.Random) -> plans.Plan:
  """The plan with one mistake that leaves a program that runs."""
  return _first_that_applies(_PLAN_MISTAKES, plan, rng)


def spoil_text(text: str, rng: random.Random) -> str:
  """The program with one mistake that, as a rule, stops it."""
  return _first_that_applies(_TEXT_MISTAKES, text, rng)


def _first_that_applies(mistakes, item, rng):
  """Applies one, drawn by weight from those that apply; else none."""
  made = [(m(item, rng), weight) for m, weight in mistakes]
  made = [(m, weight) for m, weight in made if m is not None and m != item]
  if not made:
    return item
  options, weights = zip(*made)
  return rng.choices(options, weights)[0]


def _change_phrase(plan, rng, change):
  """Changes one phrase at random, at any depth, where `change` applies."""
  options = []
  for i, phrase in enumerate(plan.phrases):
    for changed in _changed(phrase, change):
      options.append((*plan.phrases[:i], changed, *plan.phrases[i + 1 :]))
  if not options:
    return None
  return dataclasses.replace(plan, phrases=rng.choice(options))


def _changed(phrase, change):
  """Every version of a phrase with one part of it changed."""
  changed = change(phrase)
  if changed is not None:
    yield changed
  for i, relation in enumerate(phrase.relations):
    for anchor in _changed(relation.anchor, change):
      yield _with_relation(
        phrase, i, dataclasses.replace(relation, anchor=anchor)
      )


def _with_relation(phrase, index, *relations):
  before, after = phrase.relations[:index], phrase.relations[index + 1 :]
  return dataclasses.replace(phrase, relations=(*before, *relations, *after))


def _missed_step(plan, rng):
  """Leaves out a relation, or the second half of the question."""
  if plan.form == "both":
    return dataclasses.replace(plan, phrases=plan.phrases[:1])
  if plan.form == "relation":
    return None
  return _change_phrase(
    plan, rng, lambda p: _with_relation(p, 0) if p.relations else None
  )


def _renamed_relation(table):
  def change(phrase):
    if not phrase.relations:
      return None
    relation = phrase.relations[0]
    name = dict(table)[relation.name]
    return _with_relation(phrase, 0, dataclasses.replace(relation, name=name))

  return lambda plan, rng: _change_phrase(plan, rng, change)


def _compared_centers(plan, rng):
  def change(phrase):
    if not phrase.relations:
      return None
    relation = dataclasses.replace(phrase.relations[0], is_between_centers=True)
    return _with_relation(phrase, 0, relation)

  return _change_phrase(plan, rng, change)


def _missed_color(plan, rng):
  """Takes the first square for the red square."""
  return _change_phrase(
    plan,
    rng,
    lambda p: dataclasses.replace(p, color="") if p.color else None,
  )


def _wrong_color(plan, rng):
  mentioned = [p.color for p in _all_phrases(plan) if p.color]
  options = [*mentioned, *plans.COLORS[:4]]

  def change(phrase):
    others = [c for c in options if c != phrase.color]
    if not phrase.color:
      return None
    return dataclasses.replace(phrase, color=rng.choice(others))

  return _change_phrase(plan, rng, change)


def _wrong_noun(plan, rng):
  """Takes another noun of the question, or any object."""
  options = [p.noun for p in _all_phrases(plan)] + ["object"]

  def change(phrase):
    others = [n for n in options if n != phrase.noun]
    if not others:
      return None
    return dataclasses.replace(phrase, noun=rng.choice(others))

  return _change_phrase(plan, rng, change)


def _wrong_attribute(plan, rng):
  del rng
  if plan.form != "attribute":
    return None
  other = "shape" if plan.detail == "color" else "color"
  return dataclasses.replace(plan, detail=other)


def _wrong_operator(plan, rng):
  operators = dict(_OPERATORS).get(plan.detail)
  if operators is None:
    return None
  return dataclasses.replace(plan, detail=rng.choice(operators))


def _all_phrases(plan):
  stack = list(plan.phrases)
  while stack:
    phrase = stack.pop(0)
    yield phrase
    stack.extend(r.anchor for r in phrase.relations)


def _broken_syntax(text, rng):
  """Drops a bracket or a colon, or stops in the middle of a line."""
  places = [m.start() for m in re.finditer(r"[)\]:]", text)]
  if rng.random() < 0.3:
    return text[: rng.choice(places)]
  at = rng.choice([p for p in places if text[p] != "]"])
  return text[:at] + text[at + 1 :]


def _invented_call(text, rng):
  options = [(old, new) for old, new in _MISSPELT if old in text]
  old, new = rng.choice(options)
  return text.replace(old, new, 1)


def _wrong_arity(text, rng):
  options = [
    re.sub(r'\.find\("(\w+)"\)', r'.find("\1", "object")', text, count=1),
    re.sub(r"\.visual_question_answering\(", r"\g<0>image, ", text, count=1),
    re.sub(
      r"formatting_answer\((.+)\)\n$", r"formatting_answer(\1, 1)\n", text
    ),
  ]
  return rng.choice(options)


def _wrong_index(text, rng):
  """Takes the second of what is, as a rule, one."""
  places = [m.start() for m in re.finditer(r"\[0\]", text)]
  if not places:
    return None
  at = rng.choice(places)
  return f"{text[:at]}[1]{text[at + 3 :]}"


def _wrong_case(text, rng):
  """Compares with "Red", which no tool answers: the list stays empty."""
  del rng
  return re.sub(
    r'== "([a-z]+)"', lambda m: f'== "{m[1].capitalize()}"', text, count=1
  )


def _forgotten_line(text, rng):
  """Uses a variable that it never sets."""
  lines = text.splitlines(keepends=True)
  places = [
    i
    for i, line in enumerate(lines)
    if re.match(r"    \w+ = [^\[]", line) and i > 0
  ]
  at = rng.choice(places)
  return "".join([*lines[:at], *lines[at + 1 :]])


_PlanMistake = Callable[[plans.Plan, random.Random], plans.Plan | None]
_TextMistake = Callable[[str, random.Random], str | None]

# With weights.
_PLAN_MISTAKES: tuple[tuple[_PlanMistake, float], ...] = (
  (_missed_step, 3.0),
  (_renamed_relation(_MIRRORED), 3.0),
  (_renamed_relation(_TURNED), 1.0),
  (_compared_centers, 1.0),
  (_missed_color, 3.0),
  (_wrong_color, 1.5),
  (_wrong_noun, 2.0),
  (_wrong_attribute, 1.0),
  (_wrong_operator, 2.0),
)
_TEXT_MISTAKES: tuple[tuple[_TextMistake, float], ...] = (
  (_broken_syntax, 2.0),
  (_invented_call, 2.0),
  (_wrong_arity, 1.5),
  (_wrong_index, 2.0),
  (_wrong_case, 1.0),
  (_forgotten_line, 1.5),
)
