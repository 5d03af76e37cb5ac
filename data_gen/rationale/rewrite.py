"""The stage `rationales`: turns a kept program's trace into a rationale.

Two forms, both without an LLM:

    short      21 62 229 271 ; 354 62 562 271 , 687 62 895 271 ; 2
    sentences  The blue circle is at 21 62 229 271. The squares left of it are
               at 354 62 562 271 and 687 62 895 271. So the answer is 2.
"""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from data_gen import records, shard_files
from data_gen.rationale import verify
from data_gen.trace import events
from vpd_jax import config_check
from vpd_jax.evaluators import scoring

_VALUE = re.compile(
  r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)|\b(?:yes|no|none|true|false)\b",
  re.IGNORECASE,
)
_AS_WORD = {"true": "yes", "false": "no"}
_LABELLED_BOXES = re.compile(r"(?P<label>[^:]*[^:\d\s])\s*:[\s\d,;\[\]]*\.?")
_ARTICLE = re.compile(r"(the|an?)\b", re.IGNORECASE)
_INNER_STOP = re.compile(r"[.!?](?=\s)")
_MAX_FACTS = 3


def short(trace: Sequence[events.Event], answer: str) -> str:
  """What decides, and the answer: groups joined by " ; ".

  A group stands for one printed fact: its boxes joined by " , ", or, without
  a box, its numbers and its yes, no or none. A fact printed twice in a row
  counts once. Empty if no fact holds a box or a value.
  """
  groups = [_group(fact) for fact in _facts(trace)]
  groups = [group for group in groups if group]
  return " ; ".join([*groups, answer]) if groups else ""


def sentences(question: str, trace: Sequence[events.Event], answer: str) -> str:
  """The last printed facts as sentences, then the answer.

  Args:
    question: as asked; says what is looked for where nothing was printed.
    trace: of the kept program.
    answer: to end with; see `conclusion`.

  Returns:
    One to four sentences, boxes as "y1 x1 y2 x2"; empty if the trace holds
    neither a fact nor a tool's result.
  """
  facts = [fact for fact in _facts(trace) if _group(fact)]
  said = _merged([_clause(fact) for fact in facts])
  if not said:
    said = [_call_clause(question, e) for e in trace if e.box is not None]
  if not said:
    return ""
  said = [*said[-_MAX_FACTS:], f"So the answer is {answer}"]
  return " ".join(clause[:1].upper() + clause[1:] + "." for clause in said)


def conclusion(
  question: records.Question, choice: records.Choice, run: records.Run
) -> str:
  """What a rationale of this run ends with: the answer that the run gave.

  In the wording of the accepted answer that it agrees with. A run that agrees
  with none (kept unfiltered) keeps its own, so that the label is not told to
  those who learn from rationales that nothing has checked.
  """
  given = run.answer or ""
  if choice.answer_source == records.ANSWER_FROM_LABEL:
    for accepted in question.answers:
      if scoring.exact_match(given, (accepted,)):
        return accepted
  return given


def _facts(trace: Sequence[events.Event]) -> list[str]:
  """Printed lines, each once where it is repeated in a row."""
  lines = [str(e.value).strip() for e in trace if e.tool == events.PRINT]
  return [line for line, _ in itertools.groupby(lines) if line]


def _group(fact: str) -> str:
  boxes = dict.fromkeys(scoring.boxes_in(fact))
  if boxes:
    return " , ".join(_box_text(box) for box in boxes)
  values: list[str] = [v.lower() for v in _VALUE.findall(fact)]
  return " ".join(_AS_WORD.get(v, v) for v in values)


def _clause(fact: str) -> str:
  """A printed fact as one sentence, without its full stop."""
  fact = fact.strip(" .")
  boxes = scoring.boxes_in(fact)
  labelled = _LABELLED_BOXES.fullmatch(fact)
  if labelled and boxes:
    label = labelled["label"]
    is_one = len(boxes) == 1 and _ARTICLE.match(label)
    return f"{label} {'is' if is_one else 'are'} at {_and(boxes)}"
  # "Is it red? yes" is one fact, not two sentences.
  return _INNER_STOP.sub(lambda m: ":" if m[0] == "?" else ";", fact)


def _merged(clauses: Sequence[str]) -> list[str]:
  """Joins what cites no box to what came before, if there are too many."""
  if len(clauses) <= _MAX_FACTS:
    return list(clauses)
  merged: list[str] = []
  for clause in clauses:
    if merged and not scoring.boxes_in(clause):
      merged[-1] += "; " + clause[:1].lower() + clause[1:]
    else:
      merged.append(clause)
  return merged


def _call_clause(question: str, event: events.Event) -> str:
  if event.tool == "find":
    name = event.arguments.get("object_name", "object")
    if not event.value:
      return f"there is no {name}"
    return f"{len(event.value)} x {name} at {_and(event.value)}"
  where, value = f"at {_box_text(event.box)}", event.value
  if event.tool == "ocr":
    return f'{where} is written "{value}"' if value else f"{where} are no words"
  if event.tool == "compute_depth":
    return f"{where} the distance is {value:g}"
  if event.tool == "image_caption":
    return f'{where} is seen "{value}"'
  if event.tool == "verify_property":
    object_name, attribute = event.arguments.values()
    return f"{where} the {object_name} is {'' if value else 'not '}{attribute}"
  if event.tool == "match_scores":
    best = max(zip(value, event.arguments["texts"]))[1]
    return f'{where} fits "{best}" best'
  asked = event.arguments.get("question", question).rstrip("?. ")
  return f'{where}, "{asked}" gives {value}'


def _and(boxes) -> str:
  return " and ".join(_box_text(box) for box in boxes)


def _box_text(box) -> str:
  return " ".join(str(c) for c in box)


class Writer:
  """The section `rationale`.

  Args:
    form: "short" or "sentences".
    max_chars: longest rationale that is kept.
  """

  def __init__(
    self,
    form: Literal["short", "sentences"] = "short",
    max_chars: int = 600,
  ):
    if form not in ("short", "sentences"):
      raise ValueError(
        f"config.rationale.form={form!r} is neither 'short' nor 'sentences'."
      )
    self._form = form
    self._max_chars = max_chars

  def write(
    self,
    question: records.Question,
    choice: records.Choice,
    runs: Sequence[records.Run],
  ) -> records.Rationale:
    """The rationale of a question's kept program, or why there is none."""
    text, reason = "", choice.reason
    if choice.kept is not None:
      run = next(r for r in runs if r.index == choice.kept)
      answer = conclusion(question, choice, run)
      if self._form == "short":
        text = short(run.trace, answer)
      else:
        text = sentences(question.question, run.trace, answer)
      reason = verify.fault(
        text,
        answer,
        run.trace,
        max_chars=self._max_chars,
        max_sentences=4 if self._form == "sentences" else None,
      )
    return records.Rationale(
      question_id=question.question_id,
      text="" if reason else text,
      reason=reason,
      form=self._form,
      program_index=None if reason else choice.kept,
    )


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  section = config.get("rationale", {})
  config_check.check_keywords(Writer, section, "rationale")
  Writer(**section)
  return {}


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._writer = Writer(**config.get("rationale", {}))

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Writes the shard's rationales; see `data_gen.stage`."""
    name = f"{shard}.jsonl"
    out.open(name)
    for question, choice, (_, runs) in zip(
      shard_files.read_rows(records.Question, folders["questions"] / name),
      shard_files.read_rows(records.Choice, folders["choices"] / name),
      shard_files.read_groups(records.Run, folders["runs"] / name),
      strict=True,
    ):
      rationale = self._writer.write(question, choice, runs)
      out.write_row(rationale)
      out.tally(question.family, rationale.reason)

  def close(self) -> None:
    """See `data_gen.stage`."""
