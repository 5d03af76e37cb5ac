"""Writes a plan as a Python program, in one of several styles.

The programs follow the API text of the prompt: `find` with one noun, colours
asked of each patch, relations as comparisons of coordinates, one printed fact
per step that decides, with its patches.
"""

import dataclasses
import random

from data_gen.llm import _grammar_parse as plans

INDENT = "    "
# Relation: coordinate of a patch, comparison, the anchor's border.
_COMPARISONS = (
  ("left", "horizontal_center", "<", "left"),
  ("right", "horizontal_center", ">", "right"),
  ("above", "vertical_center", ">", "upper"),
  ("below", "vertical_center", "<", "lower"),
)
_RELATION_TEXTS = (
  ("left", "left of"),
  ("right", "right of"),
  ("above", "above"),
  ("below", "below"),
)


@dataclasses.dataclass(frozen=True)
class Style:
  """How a program is written; none of it changes what it computes.

  Attributes:
    has_comments: a comment before each step.
    has_loops: loops with append, not list comprehensions.
    has_guards: returns early where something is not found.
    is_relation_first: filters by place before asking for the colour.
    asks_yes_no: "Is it red?" rather than "What color is it?".
    color_question: in words; "{}" stands for the noun.
    joiner: between boxes in a printed fact.
    patch: name of the variable of loops.
  """

  has_comments: bool
  has_loops: bool
  has_guards: bool
  is_relation_first: bool
  asks_yes_no: bool
  color_question: str
  joiner: str
  patch: str


def draw_style(rng: random.Random) -> Style:
  """A style at random."""
  return Style(
    has_comments=rng.random() < 0.8,
    has_loops=rng.random() < 0.3,
    has_guards=rng.random() < 0.5,
    is_relation_first=rng.random() < 0.5,
    asks_yes_no=rng.random() < 0.2,
    color_question=rng.choice(
      ("What color is it?", "What color is this?", "What color is the {}?")
    ),
    joiner=rng.choice((", ", " and ")),
    patch=rng.choice(("p", "patch", "obj", "candidate")),
  )


def write(plan: plans.Plan, style: Style) -> str:
  """The program's text."""
  return _Writer(style).write(plan)


class _Writer:
  """Collects the lines of one program."""

  def __init__(self, style: Style):
    self._style = style
    self._lines = [
      "def execute_command(image):",
      f"{INDENT}image_patch = ImagePatch(image)",
    ]
    self._names: set[str] = set()
    self._found: dict[plans.Phrase, str] = {}
    self._default = '"unknown"'

  def write(self, plan: plans.Plan) -> str:
    getattr(self, f"_{plan.form}")(plan)
    return "\n".join(self._lines) + "\n"

  def _attribute(self, plan):
    patch = self._one(plan.phrases[0])
    if plan.detail == "color":
      question = self._style.color_question.format(plan.phrases[0].noun)
    else:
      question = "What shape is it?"
    self._comment(f"Ask for its {plan.detail}.")
    name = self._name(plan.detail)
    self._add(f'{name} = {patch}.visual_question_answering("{question}")')
    self._return(name)

  def _count(self, plan):
    phrase = plan.phrases[0]
    self._default = "0"
    found = self._many(phrase)
    if_none = "" if phrase.relations else " or 'none'"
    self._print_all(phrase, found, if_none)
    self._return(f"len({found})")

  def _compare(self, plan):
    names = []
    for phrase in plan.phrases:
      names.append(self._many(phrase))
      self._print_all(phrase, names[-1], " or 'none'")
    counts = " and ".join(
      f"{{len({name})}} {_plural(phrase)}"
      for name, phrase in zip(names, plan.phrases)
    )
    self._comment("Compare the counts.")
    self._add(f'print(f"There are {counts}.")')
    first, second = names[0], names[-1]
    self._return(f"len({first}) {plan.detail} len({second})")

  def _both(self, plan):
    self._default = '"no"'
    flags = []
    for phrase, flag in zip(plan.phrases, ("first", "second")):
      self._statement(phrase, flag)
      self._add(
        f"print(f\"Is the {_said(phrase)}? {{'yes' if {flag} else 'no'}}.\")"
      )
      flags.append(flag)
    self._return(f" {plan.detail} ".join(flags))

  def _relation(self, plan):
    self._default = '"no"'
    flag = "is_so"
    self._statement(plan.phrases[0], flag)
    self._return(flag)

  def _exists(self, plan):
    names = []
    for phrase in plan.phrases:
      names.append(self._many(phrase))
      self._print_all(phrase, names[-1], " or 'none'")
    tests = [f"len({name}) > 0" for name in names]
    self._return(f" {plan.detail} ".join(tests))

  def _word(self, plan):
    patch = self._one(plan.phrases[0])
    self._comment("Read it.")
    self._add(f"word = ocr({patch})")
    self._return("word")

  def _fact(self, plan):
    patch = self._one(plan.phrases[0])
    self._comment("Ask what it is, then what is known of such things.")
    self._add(f'kind = {patch}.visual_question_answering("What shape is it?")')
    question = plan.detail.format("{kind}")
    self._add(f'answer = language_question_answering(f"{question}")')
    self._return("answer")

  def _depth(self, plan):
    self._default = '"no"'
    first, second = self._together(plan.phrases)
    self._comment("A smaller depth is closer.")
    self._return(
      f"{first}.compute_depth() {plan.detail} {second}.compute_depth()"
    )

  def _other(self, plan):
    question = plan.detail.replace("\\", "\\\\").replace('"', '\\"')
    self._comment("Ask directly.")
    self._add(f'answer = image_patch.visual_question_answering("{question}")')
    self._add('print(f"The answer is {answer}.")')
    self._return("answer")

  def _statement(self, phrase, flag):
    """Sets a flag to whether "the A is left of the B"; without a relation,
    to whether there is an A."""
    if not phrase.relations:
      found = self._many(phrase)
      self._print_all(phrase, found, " or 'none'")
      self._add(f"{flag} = len({found}) > 0")
      return
    relation = phrase.relations[0]
    subject = dataclasses.replace(phrase, relations=())
    first, second = self._together((subject, relation.anchor))
    self._add(f"{flag} = {_comparison(first, relation, second)}")

  def _together(self, phrases):
    """Finds single things and prints them as one fact."""
    names = [self._one(phrase, is_printed=False) for phrase in phrases]
    text = " and ".join(
      f"the {phrase} is at {{{name}}}" for phrase, name in zip(phrases, names)
    )
    self._add(f'print(f"{text[0].upper()}{text[1:]}.")')
    return names

  def _one(self, phrase, is_printed=True):
    """Finds a phrase's single thing; its variable."""
    if phrase in self._found:
      name = self._found[phrase]
    else:
      found = self._many(phrase)
      if self._style.has_guards:
        self._add(f"if not {found}:")
        self._add(f"{INDENT}return formatting_answer({self._default})")
      name = self._name(f"{phrase}".replace(" ", "_"))
      self._add(f"{name} = {found}[0]")
      self._found[phrase] = name
    if is_printed:
      self._add(f'print(f"The {_said(phrase)} is at {{{name}}}.")')
    return name

  def _many(self, phrase):
    """Finds all that a phrase names; the variable of the list."""
    if len(phrase.relations) > 1:
      anchors = self._together([r.anchor for r in phrase.relations])
    else:
      anchors = [self._one(r.anchor) for r in phrase.relations]
    patch = self._style.patch
    tests = [
      _comparison(patch, relation, anchor)
      for relation, anchor in zip(phrase.relations, anchors)
    ]
    if phrase.color:
      at = len(tests) if self._style.is_relation_first else 0
      tests.insert(at, self._color_test(phrase))
    self._comment(f"Find each {_said(phrase)}.")
    name = self._name(_plural(phrase).replace(" ", "_"))
    source = f'image_patch.find("{phrase.noun}")'
    if not tests:
      self._add(f"{name} = {source}")
    elif self._style.has_loops:
      self._add(f"{name} = []")
      self._add(f"for {patch} in {source}:")
      self._add(f"{INDENT}if {' and '.join(tests)}:")
      self._add(f"{INDENT * 2}{name}.append({patch})")
    else:
      self._add(f"{name} = [")
      self._add(f"{INDENT}{patch} for {patch} in {source}")
      self._add(f"{INDENT}if {' and '.join(tests)}")
      self._add("]")
    return name

  def _color_test(self, phrase):
    patch, ask = self._style.patch, "visual_question_answering"
    if self._style.asks_yes_no:
      return f'{patch}.{ask}("Is it {phrase.color}?") == "yes"'
    question = self._style.color_question.format(phrase.noun)
    return f'{patch}.{ask}("{question}") == "{phrase.color}"'

  def _print_all(self, phrase, name, if_none):
    said = _said(phrase, is_plural=True)
    joined = f"'{self._style.joiner}'.join(str(p) for p in {name})"
    self._add(f'print(f"{said[0].upper()}{said[1:]}: {{{joined}{if_none}}}.")')

  def _comment(self, text):
    if self._style.has_comments:
      self._add(f"# {text}")

  def _return(self, value):
    self._add(f"return formatting_answer({value})")

  def _add(self, line):
    self._lines.append(INDENT + line)

  def _name(self, wanted):
    """A variable's name that is not taken."""
    name, number = wanted, 2
    while name in self._names:
      name, number = f"{wanted}_{number}", number + 1
    self._names.add(name)
    return name


def _comparison(patch, relation, anchor):
  _, center, operator, border = next(
    c for c in _COMPARISONS if c[0] == relation.name
  )
  other = center if relation.is_between_centers else border
  return f"{patch}.{center} {operator} {anchor}.{other}"


def _plural(phrase):
  ending = "es" if phrase.noun.endswith(("s", "x", "ch", "sh")) else "s"
  return f"{phrase}{ending}"


def _said(phrase, is_plural=False):
  """The phrase in words, with its first relations."""
  text = _plural(phrase) if is_plural else str(phrase)
  words = dict(_RELATION_TEXTS)
  return text + " and".join(
    f" {words[r.name]} the {r.anchor}" for r in phrase.relations
  )
