"""The host's end of one program's run: counts, checks, cleans, keeps the clock.

A state machine between bytes from the child and answers of tools; it does no
I/O itself. Nothing that comes from the child is trusted: a message that its
own code does not send ends the run as "worker_died".
"""

import dataclasses
import math
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

from data_gen.programs import parse
from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.tools import api
from data_gen.tools import tool as tool_lib
from data_gen.trace import recorder as recorder_lib
from data_gen.trace.events import Event

# Error class -> status of the run.
ERROR_CLASSES: Mapping[str, str] = types.MappingProxyType(
  {
    "syntax": "refused",
    "refused": "refused",
    "name": "error",
    "attribute": "error",
    "type": "error",
    "arity": "error",
    "index": "error",
    "key": "error",
    "value": "error",
    "zero_division": "error",
    "tool_refused": "error",
    "tool_error": "error",
    "tool_missing": "error",
    "tool_timeout": "error",
    "tool_died": "error",
    "bad_image": "error",
    "no_answer": "error",
    "bad_answer": "error",
    "other": "error",
    "recursion": "killed",
    "memory": "killed",
    "wall_time": "killed",
    "cpu_time": "killed",
    "output": "killed",
    "tool_calls": "killed",
    "llm_calls": "killed",
    "worker_died": "killed",
  }
)
# Those that the worker may report; the others are found out from here.
_REPORTED = frozenset(
  """syntax refused name attribute type arity index key value zero_division
  recursion tool_refused no_answer bad_answer other""".split()
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended; the first five fields are those of `records.Run`.

  Attributes:
    status, error_class, message, answer, trace: see `records.Run`.
    tool_calls: how many calls were answered.
    wall_s: time from start to end, waits for tools included. Not
      reproducible.
  """

  status: str
  error_class: str
  message: str
  answer: str | None
  trace: tuple[Event, ...]
  tool_calls: int
  wall_s: float


class _Broken(Exception):
  """A message that the worker's own code does not send."""


@dataclasses.dataclass(frozen=True)
class Request:
  """A tool call that the program waits for.

  Attributes:
    call: name in `api.CALLS`.
    box: y1 x1 y2 x2 on 0..999; None for a call without a patch.
    arguments: plain values.
    line: of the program; 0 if unknown.
  """

  call: str
  box: api.Box | None
  arguments: dict[str, Any]
  line: int


class Session:
  """The host's end of one program's run.

  Attributes:
    pending: the tool call that the program waits for; None if it runs.
    ending: (error class, message) when it is over, both "" for an answer;
      None before.
    outbox: bytes that wait to be sent to the child.
  """

  def __init__(
    self,
    limits: limits_lib.Limits,
    program_text: str,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Initialises.

    Args:
      limits: of the program.
      program_text: as the writer gave it.
      clock: seconds; what wall time is measured by.
    """
    self.pending: Request | None = None
    self.ending: tuple[str, str] | None = None
    text = program_text[: parse.MAX_COMPLETION_CHARS + 1]
    self.outbox = bytearray(frames.encode(text))
    self._limits = limits
    self._reader = frames.Reader()
    self._recorder = recorder_lib.Recorder()
    self._clock = clock
    self._start_s = time.monotonic()
    self._resumed_s = clock()
    self._used_s = 0.0
    self._tool_calls = 0
    self._llm_calls = 0
    self._output_bytes = 0
    self._answer = None

  @property
  def deadline_s(self) -> float:
    """When its wall time is up, on its clock; infinite while it waits for a
    tool."""
    if self.pending is not None:
      return math.inf
    return self._resumed_s + self._limits.wall_time_s - self._used_s

  def receive(self, data: bytes) -> None:
    """Takes bytes that came from the child."""
    self._reader.feed(data)
    self._take_frames()

  def answer(self, answer: tool_lib.Answer) -> None:
    """Ends the wait for the pending call."""
    request, self.pending = self.pending, None
    assert request is not None
    self._resumed_s = self._clock()
    if answer.kind == "fault":
      message = f"line {request.line}: {answer.message}"
      self.ending = answer.error_class, message
      return
    if answer.kind == "refused":
      self.outbox += frames.encode(
        {"refused": recorder_lib.clean(answer.message)}
      )
    else:
      try:
        self.outbox += frames.encode({"value": answer.value})
      except frames.FrameError as e:
        self.ending = "tool_error", f"line {request.line}: {e}"
        return
      self._recorder.record_call(
        request.line,
        request.call,
        request.box,
        request.arguments,
        answer.value,
      )
      self._check_trace()
    self._take_frames()

  def expire(self) -> None:
    """Ends the run, for its wall time is up."""
    text = f"{self._limits.wall_time_s:g} s"
    self.ending = "wall_time", limit_text(text, "wall_time_s")

  def outcome(self) -> Outcome:
    """How it ended; `ending` is set."""
    assert self.ending is not None
    error_class, message = self.ending
    return Outcome(
      status=ERROR_CLASSES[error_class] if error_class else "ok",
      error_class=error_class,
      message=recorder_lib.clean(message),
      answer=self._answer,
      trace=self._recorder.trace(),
      tool_calls=self._tool_calls,
      wall_s=time.monotonic() - self._start_s,
    )

  def _check_trace(self):
    limit = self._limits.max_trace_bytes
    if self._recorder.num_bytes > limit:
      text = f"{limit} bytes of trace"
      self.ending = "output", limit_text(text, "max_trace_bytes")

  def _take_frames(self):
    try:
      while self._is_running() and self._reader.has_frame():
        self._take(self._reader.next())
    except (frames.FrameError, _Broken) as e:
      text = recorder_lib.clean(f"broke the protocol: {e}")
      self.ending = "worker_died", text

  def _is_running(self):
    return self.pending is None and self.ending is None

  def _take(self, message):
    kind = message.get("kind") if isinstance(message, dict) else None
    if kind == "call":
      self._take_call(message)
    elif kind == "print":
      text = _field(message, "text", str)
      self._output_bytes += limits_lib.printed_bytes(text)
      if self._output_bytes > self._limits.max_output_bytes:
        self.ending = output_ending(self._limits)
      else:
        self._recorder.record_print(_line(message), text)
        self._check_trace()
    elif kind == "answer":
      self._take_answer(_field(message, "text", str))
    elif kind == "error":
      error_class = _field(message, "error_class", str)
      if error_class not in _REPORTED:
        raise _Broken(f"error class {error_class}")
      text, line = _field(message, "message", str), _line(message)
      is_located = not line or text.startswith("line ")
      self.ending = error_class, text if is_located else f"line {line}: {text}"
    else:
      raise _Broken("a message of no known kind")

  def _take_call(self, message):
    call = _field(message, "tool", str)
    arguments = _field(message, "arguments", dict)
    box = message.get("box")
    if call not in api.CALLS or not _fits(arguments, api.CALLS[call].arguments):
      raise _Broken("a call that the API does not make")
    if box is not None:
      if not _is_box(box):
        raise _Broken("a box that is none")
      box = tuple(box)
    is_llm, limits = api.CALLS[call].is_llm, self._limits
    if self._tool_calls >= limits.max_tool_calls:
      text = f"{limits.max_tool_calls} tool calls"
      self.ending = "tool_calls", limit_text(text, "max_tool_calls")
    elif is_llm and self._llm_calls >= limits.max_llm_calls:
      text = f"{limits.max_llm_calls} calls of a language model"
      self.ending = "llm_calls", limit_text(text, "max_llm_calls")
    else:
      self._tool_calls += 1
      self._llm_calls += is_llm
      self._used_s += self._clock() - self._resumed_s
      arguments = recorder_lib.clean_value(arguments)
      self.pending = Request(call, box, arguments, _line(message))

  def _take_answer(self, text):
    most = self._limits.max_answer_chars
    answer = recorder_lib.clean(text).strip()
    if not answer or len(text) > most:
      raise _Broken("an answer that is none")
    if len(answer) > most:
      message = f"an answer of {len(answer)} characters once it is escaped; at "
      self.ending = "bad_answer", message + f"most {most} are taken"
      return
    self._answer = answer
    self._recorder.record_output(0, answer)
    self.ending = "", ""


def limit_text(limit: str, option: str) -> str:
  """The message of a run that passed a limit."""
  return f"used more than {limit}; sandbox.{option} sets this limit"


def output_ending(limits: limits_lib.Limits) -> tuple[str, str]:
  """The ending of a run that printed too much."""
  text = f"{limits.max_output_bytes} bytes of printed text"
  return "output", limit_text(text, "max_output_bytes")


def _field(message, name, kind):
  value = message.get(name)
  if type(value) is not kind:
    raise _Broken(f"a message without {name}")
  return value


def _line(message):
  line = _field(message, "line", int)
  return line if 0 <= line <= parse.MAX_CHARS else 0


def _fits(arguments, kinds):
  """Whether these are the arguments of a call, each of its exact type."""
  return arguments.keys() == kinds.keys() and all(
    type(arguments[name]) is kind
    and (kind is not list or all(type(v) is str for v in arguments[name]))
    for name, kind in kinds.items()
  )


def _is_box(box):
  if not isinstance(box, list) or len(box) != 4:
    return False
  if any(type(v) is not int for v in box):
    return False
  y1, x1, y2, x2 = box
  return 0 <= y1 < y2 <= 999 and 0 <= x1 < x2 <= 999
