"""Records passed between stages: one dataclass per stage's output row.

Stages meet through files: each row is one line of JSON with the fields below
(`to_json`, `from_json`). All values are plain: str, int, float, bool, None,
lists and dicts of them. Text that came from a program, a tool or an LLM is
already escaped when it enters a row (see `data_gen.trace.recorder`).

The chain of a question:

    Question -> [Program] * k -> [Run] * k -> Choice -> Rationale -> Example
"""

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from data_gen.trace.events import Event

Box = tuple[int, int, int, int]  # y1 x1 y2 x2 on the 0..999 grid, top left.

ANSWER_FROM_LABEL = "human"
ANSWER_FROM_PROGRAM = "program"


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about an image, as a source reads it.

  Attributes:
    question_id: unique within the data set.
    image_id: names the image's bytes, which travel beside the rows.
    question: as asked.
    answers: accepted answers, the most common first; empty: unlabelled.
    split: "train", "validation", or a test split's name.
    family: kind of question, for tables.
    choices: options of a multiple-choice question.
    regions: boxes that the question points at, in the order of its numbers.
    objects: where objects really are, if the source knows; for scoring only.
    reference_rationale: right by construction or by a human, if the source
      has one; for scoring and upper bounds only, no stage may learn from it.
    image: encoded JPEG or PNG. Not part of the JSON row.
  """

  question_id: str
  image_id: str
  question: str
  answers: tuple[str, ...]
  split: str
  family: str = ""
  choices: tuple[str, ...] = ()
  regions: tuple[Box, ...] = ()
  objects: tuple[Box, ...] = ()
  reference_rationale: str = ""
  image: bytes = dataclasses.field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True)
class Program:
  """One sampled program.

  Attributes:
    question_id: of the question.
    index: 0..k-1, the sample's number.
    text: the program as it will run (fences and chatter already removed).
    score: the writer's own score (mean token log-probability); None if it
      gives none.
    writer: name of the LLM client, "grammar" for the stand-in.
    prompt: name and hash of the prompt that it was sampled with.
  """

  question_id: str
  index: int
  text: str
  score: float | None
  writer: str
  prompt: str


@dataclasses.dataclass(frozen=True)
class Run:
  """What came of running one program.

  Attributes:
    question_id, index: of the program.
    status: "ok"; "refused" by the syntax gate; "error" raised by the program
      or a tool; "killed" for passing a limit.
    error_class: "" when ok, else one name of `data_gen.sandbox.executor.
      ERROR_CLASSES`, such as "syntax", "index", "arity", "wall_time".
    message: one escaped line for a reader; "" when ok.
    answer: what `execute_command` returned, as text; None unless ok.
    trace: the steps up to the end or the fault.
  """

  question_id: str
  index: int
  status: str
  error_class: str
  message: str
  answer: str | None
  trace: tuple[Event, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
  """Which of a question's programs is kept, and why not the others.

  Attributes:
    question_id: of the question.
    kept: the kept program's index; None if none is.
    reason: "" if one is kept, else why none is, such as "no_right_program".
    decisions: one per program: "kept", "right" (agrees, yet another was
      picked), "wrong_answer", or the run's error class.
    answer: target of the label loss; "" if there is neither label nor program.
    answer_source: ANSWER_FROM_LABEL or ANSWER_FROM_PROGRAM, "" without answer.
  """

  question_id: str
  kept: int | None
  reason: str
  decisions: tuple[str, ...]
  answer: str
  answer_source: str


@dataclasses.dataclass(frozen=True)
class Rationale:
  """The rationale made from the kept program's trace.

  Attributes:
    question_id: of the question.
    text: the rationale; "" if none survived.
    reason: "" if there is a text, else why not, such as "no_right_program",
      "number_not_in_trace".
    form: how it was written, "short" or "sentences" or an LLM's name.
    program_index: of the program that it came from; None without a text.
  """

  question_id: str
  text: str
  reason: str
  form: str
  program_index: int | None


Row = TypeVar("Row")


def to_json(row: Any) -> str:
  """One line of JSON, same bytes for equal rows; bytes fields are left out."""
  return json.dumps(_plain(row), ensure_ascii=False, separators=(",", ":"))


def from_json(cls: type[Row], line: str) -> Row:
  """The inverse of `to_json`.

  Raises:
    ValueError: if the line is no JSON object, or its fields are not those of
      `cls`; the message says which.
  """
  try:
    value = json.loads(line)
  except json.JSONDecodeError as e:
    raise ValueError(f"not a line of JSON: {e}") from e
  return _typed(cls, value)


def _plain(value):
  if dataclasses.is_dataclass(value):
    return {
      f.name: _plain(getattr(value, f.name))
      for f in dataclasses.fields(value)
      if f.type is not bytes
    }
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  return value


def _typed(kind: Any, value: Any) -> Any:
  if isinstance(kind, type) and dataclasses.is_dataclass(kind):
    if not isinstance(value, dict):
      raise ValueError(f"expected an object for {kind.__name__}, got {value!r}")
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
      raise ValueError(f"{kind.__name__} has no fields {unknown}")
    try:
      return kind(**{k: _typed(fields[k], v) for k, v in value.items()})
    except TypeError as e:
      raise ValueError(f"{kind.__name__}: {e}") from e
  origin = typing.get_origin(kind)
  if origin is tuple and isinstance(value, list):
    arguments = typing.get_args(kind)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
      return tuple(_typed(arguments[0], v) for v in value)
    return tuple(_typed(a, v) for a, v in zip(arguments, value, strict=True))
  if origin in (types.UnionType, typing.Union) and value is not None:
    inner = [a for a in typing.get_args(kind) if a is not type(None)]
    return _typed(inner[0], value)
  return value
