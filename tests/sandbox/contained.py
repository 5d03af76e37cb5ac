"""Runs hostile and benign programs contained, with and without the gate."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from data_gen.sandbox import executor as executor_lib
from data_gen.tools import tool as tool_lib

_ROOT = pathlib.Path(__file__).parents[2]
BOXES = {
  "car": [[100, 0, 200, 100], [100, 500, 200, 700], [600, 300, 900, 400]],
  "dog": [[500, 500, 999, 999]],
}

# Stands in for the interpreter: starts the worker's own script, in which any
# text passes the gate and programs have every builtin.
_UNGATED = """\
#!{python} -sSPB
import ast, builtins, runpy, sys
sys.argv = [a for a in sys.argv[1:] if not a.startswith("-")]
sys.path.append({root!r})
from data_gen.programs import parse
from data_gen.sandbox import program
parse.parse = lambda text: parse.ParsedProgram(text, ast.parse(text))
program.safe_builtins = lambda *_: dict(vars(builtins))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# What a program without the gate starts with. `fd` is its socket; no call
# that is allowed to it tells what a descriptor is, so it tries them.
PRELUDE = """\
import ctypes, errno, os, signal, socket, sys
from data_gen.sandbox import frames
LIBC = ctypes.CDLL(None, use_errno=True)

def said_by(function, *arguments):
  try:
    return repr(function(*arguments))
  except OSError as e:
    return errno.errorcode[e.errno]

def c(name, *arguments):
  ctypes.set_errno(0)
  result = getattr(LIBC, name)(*map(as_long, arguments))
  return errno.errorcode.get(ctypes.get_errno()) if result == -1 else result

def as_long(value):
  return ctypes.c_long(value) if isinstance(value, int) else value

def is_open(fd):
  return said_by(os.read, fd, 0) == "b''" or said_by(os.write, fd, b"") == "0"

def own_socket():
  return next(fd for fd in range(3, 1000) if is_open(fd))

def send(message):
  frames.write(own_socket(), frames.encode(message))

def send_raw(data):
  frames.write(own_socket(), data)
"""

Tool = Callable[[str, Any, dict[str, Any]], Any]


def start(**limits: Any) -> executor_lib.Executor:
  """An executor with small limits."""
  small: dict[str, Any] = {
    "wall_time_s": 20,
    "cpu_s": 1,
    "memory_mb": 128,
    "max_tool_calls": 20,
  }
  return executor_lib.Executor(**small | limits)


def start_ungated(folder: pathlib.Path, **limits: Any) -> executor_lib.Executor:
  """The same without the gate: the kernel's walls and the host's checks hold.

  Args:
    folder: where to put the script that stands in for the interpreter.
    **limits: see `start`.
  """
  script = folder / "python"
  script.write_text(_UNGATED.format(python=sys.executable, root=str(_ROOT)))
  script.chmod(0o755)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "executable", str(script))
    return start(**limits)


def no_tool(call: str, box: Any, arguments: dict[str, Any]) -> Any:
  """A detector that sees nothing, and a reader that reads "x"."""
  return [] if call == "find" else "x"


def run(
  executor: executor_lib.Executor,
  body: str,
  call_tool: Tool = no_tool,
  before: str = "",
) -> executor_lib.Outcome:
  """Runs a function body that starts at the left margin."""
  lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
  return executor.run(
    f"{before}def execute_command(image):\n{lines}\n", call_tool
  )


def run_ungated(
  executor: executor_lib.Executor, body: str, call_tool: Tool = no_tool
) -> executor_lib.Outcome:
  """The same with the tools of an attacker at hand; see `PRELUDE`."""
  return run(executor, body, call_tool, before=PRELUDE)


class NoTools:
  """The same for many programs at a time; answers at once."""

  def __init__(self):
    self._answers: list[tuple[Any, tool_lib.Answer]] = []

  def submit(self, token, call, image, box, arguments):
    del image
    answer = tool_lib.Answer("value", no_tool(call, box, arguments))
    self._answers.append((token, answer))

  def poll(self, flush):
    del flush
    answers, self._answers = self._answers, []
    return answers

  def files(self):
    return ()

  def next_deadline_s(self):
    return 0.0 if self._answers else None


def is_well(executor: executor_lib.Executor) -> bool:
  """Whether the next, ordinary program runs as if nothing had been."""
  body = 'return formatting_answer(len(ImagePatch(image).find("car")))'
  outcome = run(executor, body, lambda call, box, arguments: BOXES["car"])
  return outcome.answer == "3"
