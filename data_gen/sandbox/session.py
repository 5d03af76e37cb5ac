"""The host's end of one program's run: serves it, counts, checks and cleans.

Nothing that comes from the worker is trusted: a message that the worker's own
code does not send ends the run as "worker_died".
"""

import dataclasses
import math
import socket
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

from data_gen.programs import parse
from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.tools import api
from data_gen.trace import recorder as recorder_lib
from data_gen.trace.events import Event

CallTool = Callable[[str, api.Box, dict[str, Any]], Any]


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
    "no_answer": "error",
    "bad_answer": "error",
    "other": "error",
    "recursion": "killed",
    "memory": "killed",
    "wall_time": "killed",
    "cpu_time": "killed",
    "output": "killed",
    "tool_calls": "killed",
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
    wall_s: time of the run, tool calls included. Not reproducible.
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


class Session:
  """The host's end of one program's run."""

  def __init__(self, limits: limits_lib.Limits, call_tool: CallTool):
    self._limits = limits
    self._call_tool = call_tool
    self._recorder = recorder_lib.Recorder()
    self._start_s = time.monotonic()
    self._tool_s = 0.0
    self._tool_calls = 0
    self._output_bytes = 0
    self._answer = None
    self._ending = None  # (error class, message), or ("", "") for an answer.

  def drive(
    self, connection: socket.socket, program_text: str
  ) -> tuple[str, str] | None:
    """Serves the program until it ends or must be ended.

    Returns:
      (error class, message), both "" for an answer; None if the worker left
      without a last word.
    """
    self._connection = connection
    reader = frames.Reader(self._read)
    try:
      self._send(program_text)
      while self._ending is None:
        message = reader.next()
        self._take(message)
    except TimeoutError:
      text = f"{self._limits.wall_time_s:g} s"
      self._ending = "wall_time", limit_text(text, "wall_time_s")
    except (EOFError, ConnectionError):
      return None
    except (frames.FrameError, _Broken) as e:
      text = recorder_lib.clean(f"broke the protocol: {e}")
      self._ending = "worker_died", text
    return self._ending

  def outcome(self, error_class: str, message: str) -> Outcome:
    """The outcome with an ending that `drive` gave or the caller knows."""
    return Outcome(
      status=ERROR_CLASSES[error_class] if error_class else "ok",
      error_class=error_class,
      message=recorder_lib.clean(message),
      answer=self._answer,
      trace=self._recorder.trace(),
      tool_calls=self._tool_calls,
      wall_s=time.monotonic() - self._start_s,
    )

  def _take(self, message):
    kind = message.get("kind") if isinstance(message, dict) else None
    if kind == "call":
      self._take_call(message)
    elif kind == "print":
      text = _field(message, "text", str)
      self._output_bytes += len(text.encode("utf-8", "replace")) + 1
      if self._output_bytes > self._limits.max_output_bytes:
        self._ending = output_ending(self._limits)
      else:
        self._recorder.record_print(_line(message), text)
    elif kind == "answer":
      self._take_answer(_field(message, "text", str))
    elif kind == "error":
      error_class = _field(message, "error_class", str)
      if error_class not in _REPORTED:
        raise _Broken(f"error class {error_class}")
      text, line = _field(message, "message", str), _line(message)
      is_located = not line or text.startswith("line ")
      self._ending = error_class, text if is_located else f"line {line}: {text}"
    else:
      raise _Broken("a message of no known kind")

  def _take_call(self, message):
    tool = _field(message, "tool", str)
    arguments = _field(message, "arguments", dict)
    box = message.get("box")
    if tool not in api.CALLS or not all(map(_is_plain, arguments.values())):
      raise _Broken("a call that the API does not make")
    if box is not None:
      if not _is_box(box):
        raise _Broken("a box that is none")
      box = tuple(box)
    if self._tool_calls >= self._limits.max_tool_calls:
      text = f"{self._limits.max_tool_calls} tool calls"
      self._ending = "tool_calls", limit_text(text, "max_tool_calls")
      return
    self._tool_calls += 1
    start_s = time.monotonic()
    try:
      value = self._call_tool(tool, box or api.WHOLE, arguments)
      reply = frames.encode({"value": value})
    except api.ToolRefused as e:
      self._send({"refused": recorder_lib.clean(str(e))})
      return
    except Exception as e:  # A tool's fault, of any kind, is this run's error.
      self._ending = "tool_error", f"line {_line(message)}: {e}"
      return
    finally:
      self._tool_s += time.monotonic() - start_s
    self._recorder.record_call(_line(message), tool, box, arguments, value)
    self._send_frame(reply)

  def _take_answer(self, text):
    answer = recorder_lib.clean(text).strip()
    if not answer or len(text) > self._limits.max_answer_chars:
      raise _Broken("an answer that is none")
    self._answer = answer
    self._recorder.record_output(0, answer)
    self._ending = "", ""

  def _send(self, value):
    self._send_frame(frames.encode(value))

  def _send_frame(self, frame):
    self._connection.settimeout(self._left_s())
    self._connection.sendall(frame)

  def _read(self, size):
    self._connection.settimeout(self._left_s())
    return self._connection.recv(size)

  def _left_s(self):
    used_s = time.monotonic() - self._start_s - self._tool_s
    if used_s >= self._limits.wall_time_s:
      raise TimeoutError
    return self._limits.wall_time_s - used_s


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


def _is_plain(value):
  if isinstance(value, float):
    return math.isfinite(value)
  return isinstance(value, str | int | bool)


def _is_box(box):
  if not isinstance(box, list) or len(box) != 4:
    return False
  if any(type(v) is not int for v in box):
    return False
  y1, x1, y2, x2 = box
  return 0 <= y1 < y2 <= 999 and 0 <= x1 < x2 <= 999
