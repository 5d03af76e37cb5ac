"""Reads a question as a plan: what to find, and what to do with it.

    parse("How many squares are left of the blue circle?")
    Plan("count", (Phrase("", "square", (Relation("left", ...),)),))

It knows English words for colours and relations and some ways to ask; any
word can be a noun. It sees the question alone, as an LLM does.
"""

import dataclasses
import re

COLORS = (
  *("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"),
  *("black", "white", "gray", "brown"),
)
_RELATION_WORDS = (
  (r"(?:to the )?left of", "left"),
  (r"(?:to the )?right of", "right"),
  (r"above|over", "above"),
  (r"below|under|beneath", "below"),
)
_ANY = ("thing", "object", "item")
_RELATION = "|".join(words for words, _ in _RELATION_WORDS)
_HAS_RELATION = re.compile(
  rf"(?P<head>.+?)(?: (?:that )?(?:is|are))?(?: there)?"
  rf" (?P<relation>{_RELATION}) (?P<anchor>the .+)"
)


@dataclasses.dataclass(frozen=True)
class Relation:
  """A relation to an anchor.

  Attributes:
    name: "left", "right", "above" or "below".
    anchor: what it starts from.
    is_between_centers: compares with the anchor's centre, not its border.
  """

  name: str
  anchor: "Phrase"
  is_between_centers: bool = False


@dataclasses.dataclass(frozen=True)
class Phrase:
  """A noun phrase: "the red square left of the blue circle".

  Attributes:
    color: "" for any.
    noun: in the singular; "object" for any thing.
    relations: all must hold.
  """

  color: str
  noun: str
  relations: tuple[Relation, ...] = ()

  def __str__(self):
    return f"{self.color} {self.noun}".strip()


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a program is to do.

  Attributes:
    form: "attribute", "count", "compare", "both", "relation", "exists",
      "word", "fact", "depth" or "other".
    phrases: the form's noun phrases, in the question's order.
    detail: the attribute that is asked for, the operator that joins or
      compares, the question about a kind, or, for "other", the question.
  """

  form: str
  phrases: tuple[Phrase, ...]
  detail: str = ""


_FORMS = (
  (
    r"what (?:color|colour) is (?P<a>the .+)"
    r"|what is the (?:color|colour) of (?P<b>the .+)"
    r"|(?P<c>the .+) is what (?:color|colour)",
    "attribute",
    "color",
  ),
  (
    r"what shape is (?P<a>the .+)"
    r"|what is the shape of (?P<b>the .+)"
    r"|(?P<c>the .+) has what shape",
    "attribute",
    "shape",
  ),
  (
    r"how many corners does (?P<a>the .+) have"
    r"|what is the number of corners of (?P<b>the .+)",
    "fact",
    "How many corners does a {} have?",
  ),
  (r"(?:can|would|could) (?P<a>the .+) roll", "fact", "Can a {} roll?"),
  (
    r"what word is on (?P<a>the .+)"
    r"|what does (?P<b>the .+) say"
    r"|what is written on (?P<c>the .+)",
    "word",
    "",
  ),
  (
    r"is (?P<a>the .+) (?:closer|nearer)(?: to the camera)? than (?P<b>the .+)",
    "depth",
    "<",
  ),
  (
    r"are there more (?P<a>.+) than (?P<b>.+)"
    r"|is the number of (?P<c>.+) (?:greater|larger) than the number of"
    r" (?P<d>.+)"
    r"|do the (?P<e>.+) outnumber the (?P<f>.+)",
    "compare",
    ">",
  ),
  (
    r"(?:is there|does the (?:image|picture) show) an? (?P<a>.+) and an?"
    r" (?P<b>.+)",
    "exists",
    "and",
  ),
  (
    r"(?:is there|does the (?:image|picture) show) an? (?P<a>.+) or an?"
    r" (?P<b>.+)",
    "exists",
    "or",
  ),
  (
    rf"is (?:it true that )?(?P<a>the .+ (?:{_RELATION}) the .+)"
    rf" and (?P<b>the .+ (?:{_RELATION}) the .+)",
    "both",
    "and",
  ),
  (
    rf"is (?:it true that )?(?P<a>the .+ (?:{_RELATION}) the .+)",
    "relation",
    "",
  ),
  (r"how many (?P<a>.+)|count the (?P<b>.+)", "count", ""),
)


def parse(question: str) -> Plan:
  """Reads a question; the form is "other" where it is not understood."""
  text = question.lower().strip().rstrip("?.!").strip()
  for pattern, form, detail in _FORMS:
    match = re.fullmatch(pattern, text)
    if match:
      groups = [g for g in match.groups() if g]
      phrases = [_phrase(g) for g in groups]
      known = [p for p in phrases if p is not None]
      if len(known) == len(phrases):
        return Plan(form, tuple(known), detail)
  return Plan("other", (), question)


def _phrase(text: str) -> Phrase | None:
  """Reads "the red square that is left of the blue circle"; None if it is
  more than that."""
  text = re.sub(r"^(?:the|an?) ", "", text.strip())
  match = _HAS_RELATION.fullmatch(text)
  if not match:
    return _head(text)
  head, relation = _head(match["head"]), _relation_name(match["relation"])
  both = re.fullmatch(
    rf"(?P<anchor>the .+?) and (?P<relation>{_RELATION}) (?P<second>the .+)",
    match["anchor"],
  )
  pairs = [(relation, match["anchor"])]
  if both:
    second = _relation_name(both["relation"])
    pairs = [(relation, both["anchor"]), (second, both["second"])]
  anchors = [_phrase(anchor) for _, anchor in pairs]
  if head is None or None in anchors:
    return None
  return dataclasses.replace(
    head,
    relations=tuple(
      Relation(name, anchor)
      for (name, _), anchor in zip(pairs, anchors)
      if anchor is not None
    ),
  )


def _relation_name(words):
  return next(n for p, n in _RELATION_WORDS if re.fullmatch(p, words))


def _head(text):
  """Reads "red squares", "squares are there" or "things"."""
  text = re.sub(r" (?:are there|are in the (?:image|picture)|are)$", "", text)
  words = text.split()
  color = words.pop(0) if words and words[0] in COLORS else ""
  if len(words) != 1 or not words[0].isalpha():
    return None
  noun = _singular(words[0])
  return Phrase(color, "object" if noun in _ANY else noun)


def _singular(noun):
  if noun.endswith("sses"):
    return noun[:-2]
  return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun
