"""Checks that a rationale says what its trace says, and no more."""

import re
from collections.abc import Iterable, Sequence

from data_gen.trace import events
from vpd_jax.evaluators import scoring

_FIND = "find"  # The call whose value is a list of boxes.

NO_FACT = "no_fact"
TOO_LONG = "too_long"
TOO_MANY_SENTENCES = "too_many_sentences"
ANSWER_NOT_KEPT = "answer_not_kept"
BOX_NOT_IN_TRACE = "box_not_in_trace"
NUMBER_NOT_IN_TRACE = "number_not_in_trace"

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_WORD_END = re.compile(r"[\w.-]$")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


def fault(
  rationale: str,
  answer: str,
  trace: Sequence[events.Event],
  *,
  max_chars: int = 600,
  max_sentences: int | None = None,
) -> str:
  """Why a rationale must not be used; "" if it may.

  Args:
    rationale: the text.
    answer: that it must end with.
    trace: that it was made from; every box of the rationale is in it, and
      every number that stands before the answer.
    max_chars: longest text.
    max_sentences: most sentences; None for a form without sentences.

  Returns:
    One of this module's reasons, or "".
  """
  if not rationale.strip():
    return NO_FACT
  if len(rationale) > max_chars:
    return TOO_LONG
  num_sentences = len(_SENTENCE_END.findall(rationale))
  if max_sentences is not None and num_sentences > max_sentences:
    return TOO_MANY_SENTENCES
  body = _before(rationale, answer)
  if body is None:
    return ANSWER_NOT_KEPT
  boxes = {box for event in trace for box in _boxes(event)}
  if not boxes.issuperset(scoring.boxes_in(rationale)):
    return BOX_NOT_IN_TRACE
  texts = [text for event in trace for text in _texts(event)]
  numbers = set(_numbers(texts))
  numbers.update(str(len(e.value)) for e in trace if e.tool == _FIND)
  if not numbers.issuperset(_numbers([body])):
    return NUMBER_NOT_IN_TRACE
  return ""


def _before(text: str, answer: str) -> str | None:
  """What stands before the answer; None if the text does not end with it."""
  text, answer = text.rstrip(" ."), answer.rstrip(" .")
  start = len(text) - len(answer)
  if not answer or text[max(start, 0) :].casefold() != answer.casefold():
    return None
  # "12" does not end with "2".
  return None if _WORD_END.search(text[:start]) else text[:start]


def _boxes(event: events.Event) -> Iterable[tuple[int, ...]]:
  if event.box is not None:
    yield tuple(event.box)
  if event.tool == _FIND:
    yield from (tuple(box) for box in event.value)
  elif isinstance(event.value, str):
    yield from scoring.boxes_in(event.value)


def _texts(event: events.Event) -> Iterable[str]:
  yield str(event.value)
  if event.box is not None:
    yield " ".join(str(c) for c in event.box)
  for argument in event.arguments.values():
    yield str(argument)


def _numbers(texts: Iterable[str]) -> Iterable[str]:
  for text in texts:
    yield from _NUMBER.findall(text)
