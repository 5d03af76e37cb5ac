"""Hostile programs, one property each: refused, ended, or without effect."""

import pathlib
import time

import pytest

from data_gen.sandbox import executor as executor_lib


@pytest.fixture(scope="module")
def executor():
  with executor_lib.Executor(
    wall_time_s=20, cpu_s=1, memory_mb=256, max_tool_calls=20
  ) as executor:
    yield executor


def run(executor, body, call_tool=lambda *_: []):
  lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
  return executor.run(f"def execute_command(image):\n{lines}\n", call_tool)


REFUSED = {
  "import_os": "import os\nreturn os.getcwd()",
  "import_from": "from subprocess import run\nreturn run('ls')",
  "import_hidden": "import math, socket\nreturn 'x'",
  "import_private": "from math import __loader__\nreturn 'x'",
  "dunder_import": "return __import__('os').getcwd()",
  "read_file": "return open('/etc/passwd').read()",
  "write_file": "open('/tmp/out', 'w').write('x')",
  "eval": "return eval('1')",
  "exec": "exec('x = 1')",
  "compile": "return compile('1', '', 'eval')",
  "globals": "return str(globals())",
  "getattr": "return getattr(image, '_call')",
  "dunder_class": "return str(().__class__.__base__.__subclasses__())",
  "dunder_builtins": "return __builtins__",
  "private_attribute": "return str(ImagePatch(image)._image)",
  "function_globals": "return str(execute_command.__globals__)",
  "generator_frame": "g = (x for x in [1])\nreturn str(g.gi_frame.f_back)",
  "traceback": "try:\n  1 / 0\nexcept Exception as e:\n  e.with_traceback(None)",
  "error_object": "try:\n  [].x\nexcept AttributeError as e:\n  return e.obj",
  "format_map": "return '{a}'.format_map({'a': 1})",
  "match_class": "match image:\n  case object(__class__=c):\n    return str(c)",
  "class": "class A: pass\nreturn 'x'",
  "decorator": "@print\ndef f(): pass\nreturn 'x'",
  "global": "global x\nx = 1\nreturn 'x'",
  "async": "async def f(): pass\nreturn 'x'",
  "with": "with image: pass\nreturn 'x'",
  "except_star": "try:\n  pass\nexcept* ValueError:\n  pass\nreturn 'x'",
  "breakpoint": "breakpoint()",
  "input": "return input()",
  "exit": "exit(0)",
  "too_long": "x = 1\n" * 10000 + "return 'x'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_gate(executor, name):
  outcome = run(executor, REFUSED[name])
  assert (outcome.status, outcome.error_class) == ("refused", "refused")
  assert outcome.trace == ()


# Past the gate, what leads inside is not there.
BLOCKED = {
  "format_field": ("return '{0._image}'.format(ImagePatch(image))", "value"),
  "format_class": ("f = '{0.__class__}'\nreturn f.format(image)", "value"),
  "format_of_type": ("return str.format('{}', 1)", "attribute"),
  "type_of_three": ("return type('A', (), {})", "arity"),
  "set_box": ("ImagePatch(image).left = 5", "attribute"),
  "new_attribute": ("ImagePatch(image).x = 5", "attribute"),
  "bound_builtin_name": ("return (open := open)('/etc/passwd')", "name"),
  "exception_class": ("raise SystemExit", "refused"),
  "image_is_opaque": ("return image.size", "attribute"),
  "null_byte": ("return '\0'", "syntax"),
  "deep_parentheses": ("return " + "(" * 500 + ")" * 500, "syntax"),
  "deep_operators": ("return " + "-" * 9000 + "1", "syntax"),
  "deep_list": ("x = []\nfor i in range(9**6): x = [x]\nreturn str(x)", None),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked(executor, name):
  body, error_class = BLOCKED[name]
  outcome = run(executor, body)
  assert outcome.status != "ok"
  assert error_class in (None, outcome.error_class)


def test_infinite_loop_is_ended(executor):
  outcome = run(executor, "while True: pass")
  assert (outcome.status, outcome.error_class) == ("killed", "cpu_time")
  assert "sandbox.cpu_s" in outcome.message


def test_one_long_computation_in_c_is_ended(executor):
  outcome = run(executor, "return str(9 ** 9 ** 9)")
  assert outcome.error_class in ("cpu_time", "memory")


def test_loop_that_swallows_exceptions_is_ended(executor):
  body = "while True:\n  try:\n    while True: pass\n  except: pass"
  assert run(executor, body).error_class == "cpu_time"


@pytest.mark.parametrize(
  "body",
  [
    "return 'a' * 10 ** 10",
    "x = [0]\nwhile True: x += x",
    "x = {}\nfor i in range(10 ** 9): x[i] = 'a' * 1000",
  ],
)
def test_memory_bomb_is_ended(executor, body):
  outcome = run(executor, body)
  assert (outcome.status, outcome.error_class) == ("killed", "memory")
  assert "256 MB" in outcome.message


def test_output_flood_is_ended(executor):
  outcome = run(executor, "while True: print('x' * 99)")
  assert (outcome.status, outcome.error_class) == ("killed", "output")
  assert len(outcome.trace) == 65536 // 100


@pytest.mark.parametrize("text", ["''", "'x' * 10 ** 7", r"'\ud800' * 10 ** 5"])
def test_output_of_any_kind_counts(executor, text):
  body = f"while True:\n  try: print({text})\n  except: pass"
  assert run(executor, body).error_class == "output"


def test_tool_calls_are_counted_outside(executor):
  body = "while True:\n  try: ImagePatch(image).find('x')\n  except: pass"
  outcome = run(executor, body)
  assert (outcome.error_class, outcome.tool_calls) == ("tool_calls", 20)
  assert len(outcome.trace) == 20


def test_deep_recursion_ends_by_name(executor):
  outcome = run(executor, "def f(): return f()\nreturn f()")
  assert (outcome.status, outcome.error_class) == ("killed", "recursion")


def test_wall_time_is_kept_from_outside_without_tool_waits():
  def slow_tool(*_):
    time.sleep(0.6)
    return []

  with executor_lib.Executor(wall_time_s=0.5, cpu_s=60) as executor:
    outcome = run(executor, "while True: pass")
    assert (outcome.status, outcome.error_class) == ("killed", "wall_time")
    assert "0.5 s" in outcome.message
    body = "return len(ImagePatch(image).find('x'))"
    assert run(executor, body, slow_tool).answer == "0"


def descendants(pid):
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:  # Gone by now.
      continue
    parents[int(path.parent.name)] = int(fields[1])
  found = {pid}
  while True:
    more = {p for p, parent in parents.items() if parent in found} - found
    if not more:
      return found
    found |= more


def test_no_process_is_left(executor):
  before = descendants(executor._process.pid)
  run(executor, "while True: pass")
  assert descendants(executor._process.pid) == before


def test_the_next_program_runs(executor):
  for body in ("return 'a' * 10 ** 10", "while True: print(1)"):
    run(executor, body)
    assert run(executor, "return 'red'").answer == "red"
