"""One program in its child: compiles it, runs it, and talks to the host.

All that the program sees is its API, a few builtins and `math`. This
is for clear errors and clean programs; what holds it is the kernel.
"""

import builtins
import math
import os
import re
import string
import sys
import types
from typing import Any

from data_gen.programs import parse
from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.tools import api, profiles

FILE_NAME = "<program>"
MAX_MESSAGE_CHARS = 300

_ARITY = re.compile(
  r"missing \d+ required|takes (no|exactly|from|at|\d+) |unexpected keyword"
  r"|multiple values for (argument|keyword)|expected (exactly|at \w+|\d+) .*arg"
  r"|takes no (keyword )?arguments|positional-only arguments? passed"
)
_CLASSES = (
  (api.ToolRefused, "tool_refused"),
  (api.BadAnswer, "bad_answer"),
  (RecursionError, "recursion"),
  (SyntaxError, "syntax"),
  (NameError, "name"),
  (AttributeError, "attribute"),
  (TypeError, "type"),
  (IndexError, "index"),
  (KeyError, "key"),
  (ZeroDivisionError, "zero_division"),
  (ValueError, "value"),
)


class Program:
  """A program whose text comes over `fd`, as a frame.

  Args:
    fd: socket to the host.
    limits: those that this side can keep; the host keeps all of them.
    builtins_of_programs: from `safe_builtins`.
    profile: the API that it sees, a name of `tools.profiles`.
  """

  def __init__(
    self,
    fd: int,
    limits: limits_lib.Limits,
    builtins_of_programs: dict[str, Any],
    profile: str = "vpd",
  ):
    self._fd = fd
    self._limits = limits
    self._reader = frames.Reader(lambda size: os.read(fd, size))
    self._builtins = builtins_of_programs | {"print": self._print}
    self._profile = profiles.get(profile)
    self._output_bytes = 0

  def run(self) -> None:
    """Runs it; the last message is an answer or an error."""
    try:
      text = self._reader.next()
      last = self._answer(text)
    except MemoryError:
      raise
    except BaseException as e:
      last = _describe(e)
    self._send(last)

  def _answer(self, text):
    code = compile_program(parse.parse(text))
    names = self._profile.namespace(self._call)
    names["__name__"] = "program"
    names["__builtins__"] = self._builtins
    exec(code, names)
    value = names[parse.NAME](api.Image(self._call))
    if value is None:
      return _error("no_answer", 0, f"{parse.NAME} returned nothing")
    is_text = type(value) is str
    answer = value if is_text else self._profile.format_answer(value)
    if not answer.strip():
      return _error("no_answer", 0, f"{parse.NAME} returned an empty text")
    size = len(answer)
    if size > self._limits.max_answer_chars:
      message = f"an answer of {size} characters; at most "
      message += f"{self._limits.max_answer_chars} are taken"
      return _error("bad_answer", 0, message)
    return {"kind": "answer", "text": answer.strip()}

  def _call(self, tool, box, arguments):
    line = _calling_line()
    self._send(
      {
        "kind": "call",
        "tool": tool,
        "box": box,
        "arguments": arguments,
        "line": line,
      }
    )
    reply = self._reader.next()
    if "refused" in reply:
      raise api.ToolRefused(reply["refused"])
    return reply["value"]

  def _print(self, *values, sep=" ", end="\n", file=None, flush=False):
    text = (" " if sep is None else sep).join(map(str, values))
    self._output_bytes += limits_lib.printed_bytes(text)
    if self._output_bytes > self._limits.max_output_bytes:
      os._exit(limits_lib.EXIT_OUTPUT)
    self._send({"kind": "print", "text": text, "line": _calling_line()})

  def _send(self, message):
    frames.write(self._fd, frames.encode(message))


def compile_program(program: parse.ParsedProgram) -> types.CodeType:
  """Compiles a program that passed the gate."""
  try:
    return compile(program.tree, FILE_NAME, "exec", dont_inherit=True)
  except (RecursionError, MemoryError) as e:
    raise parse.ParseError("syntax", 0, "too deeply nested") from e


def _describe(exception):
  """The last message of a program that did not answer."""
  if isinstance(exception, parse.ParseError):
    return _error(exception.error_class, exception.line, str(exception))
  line = _raising_line(exception)
  try:
    detail = str(exception)[:MAX_MESSAGE_CHARS]
  except Exception:  # An int with too many digits, a list that is too deep.
    detail = ""
  error_class = _error_class(exception, detail)
  name = type(exception).__name__
  return _error(error_class, line, f"{name}: {detail}" if detail else name)


def _error_class(exception, detail):
  for kind, name in _CLASSES:
    if isinstance(exception, kind):
      return "arity" if name == "type" and _ARITY.search(detail) else name
  return "other"


def _error(error_class, line, message):
  return {
    "kind": "error",
    "error_class": error_class,
    "line": line or 0,
    "message": message[: MAX_MESSAGE_CHARS + 50],
  }


def _raising_line(exception):
  """The program's line nearest to where it was raised; 0 if none."""
  line, step = 0, exception.__traceback__
  while step is not None:
    if step.tb_frame.f_code.co_filename == FILE_NAME:
      line = step.tb_lineno
    step = step.tb_next
  return line


def _calling_line():
  frame = sys._getframe(1)
  while frame is not None and frame.f_code.co_filename != FILE_NAME:
    frame = frame.f_back
  return frame.f_lineno if frame is not None else 0


def safe_builtins() -> dict[str, Any]:
  """The builtins that a program has, `print` left out."""
  safe = {
    name: getattr(builtins, name)
    for name in dir(builtins)
    if parse.is_builtin(name)
  }
  safe["type"] = _type
  safe["hash"] = _hash
  safe["__import__"] = _import_math
  safe[parse.SAFE_FORMAT] = _safe_format
  return safe


def _type(value, /):
  kind = type(value)
  if kind is type:  # From there classes could be made.
    raise TypeError("type() of a class cannot be used")
  return kind


def _hash(value, /):
  """Of plain values: those of others tell where in memory they are."""
  items = value if type(value) in (tuple, frozenset) else (value,)
  for item in items:
    if type(item) not in (str, int, float, bool):
      raise TypeError(f"hash() takes plain values, not {type(item).__name__}")
  return hash(value)


def _import_math(name, globals=None, locals=None, fromlist=(), level=0):
  if name != "math" or level:
    raise ImportError(f"only math can be imported, not {name!r}")
  return math


class _Formatter(string.Formatter):
  """str.format, less the attributes that lead inside the interpreter."""

  def get_field(self, field_name, args, kwargs):
    if any(map(parse.is_inner_attribute, re.split(r"[.\[]", field_name)[1:])):
      raise ValueError(f"format field {field_name!r} cannot be used")
    return super().get_field(field_name, args, kwargs)


def _safe_format(text):
  if not isinstance(text, str):
    raise AttributeError(f"{type(text).__name__!r} has no usable 'format'")

  def format_text(*args, **kwargs):
    return _Formatter().vformat(text, args, kwargs)

  return format_text
