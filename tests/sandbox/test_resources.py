"""Programs that want more than their share: ended from outside, by name."""

import os
import pathlib
import time

import pytest

from tests.sandbox import contained

# Each burns its second of processor time.
CPU = {
  "loop": "while True: pass",
  "swallowed_exceptions": """
while True:
  try:
    while True: 1 / 0
  except: pass""",
  "finally": "try:\n  return 'x'\nfinally:\n  while True: pass",
  "finally_of_a_generator": """
def endless():
  try:
    yield 1
  finally:
    while True: pass
next(endless())
return 'x'""",
  "calls_that_double": """
def f(n):
  return n if n == 0 else f(n - 1) + f(n - 1)
return f(90)""",
  "swallowed_recursion": """
def f():
  try:
    f()
  finally:
    f()
f()""",
  "one_long_computation": "return 3 ** 10 ** 8 % 7",
  "endless_iterator_in_c": "return sum(iter(int, 1))",
  "key_that_loops": "def key(x):\n  while True: pass\nreturn max([1, 2], key=key)",
  "swallowed_memory_errors": """
while True:
  try:
    'a' * 10 ** 10
  except MemoryError: pass""",
}


@pytest.mark.parametrize("name", CPU)
def test_processor_time(executor, name):
  outcome = contained.run(executor, CPU[name])
  assert (outcome.status, outcome.error_class) == ("killed", "cpu_time")
  assert "sandbox.cpu_s" in outcome.message


MEMORY = {
  "text": "return 'a' * 10 ** 10",
  "bytes": "return bytes(10 ** 10)",
  "list": "return [0] * 10 ** 9",
  "tuple": "return tuple(range(10 ** 9))",
  "list_that_doubles": "x = [0]\nwhile True: x += x",
  "text_that_doubles": "x = 'x'\nwhile True: x += x",
  "dict_of_text": "x = {}\nfor i in range(10 ** 9): x[i] = 'a' * 10 ** 5",
  "set_of_tuples": "x = set()\nfor i in range(10 ** 9): x.add((i,) * 10 ** 5)",
  "int": "return 1 << 10 ** 10",
  "width": "return f'{1:>{10 ** 10}}'",
  "width_of_format": "return '{:>10000000000}'.format(1)",
  "width_of_percent": "return '%10000000000d' % 1",
  "precision": "return f'{1.5:.2000000000f}'",
  "ljust": "return 'x'.ljust(10 ** 10)",
  "join": "return ('x' * 10 ** 6).join('x' * 10 ** 4)",
  "replace": "return ('x' * 10 ** 5).replace('x', 'y' * 10 ** 5)",
  "expandtabs": "return '\\t'.expandtabs(2 * 10 ** 9)",
  "arguments": "return max(*range(10 ** 9))",
  "sorted": "return sorted(range(10 ** 9), key=lambda x: -x)",
  "closures": """
kept = []
def keep(x): kept.append(lambda: x)
while True: keep('a' * 10 ** 5)""",
  "generators": """
def hold():
  x = [0] * 10 ** 5
  yield len(x)
kept = []
while True:
  kept.append(hold())
  next(kept[-1])""",
  "answer": "return ['a'] * 10 ** 9",
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory(executor, name):
  outcome = contained.run(executor, MEMORY[name])
  assert outcome.answer is None
  if name not in ("precision", "expandtabs"):  # Python has a limit of its own.
    assert (outcome.status, outcome.error_class) == ("killed", "memory")
    assert "128 MB" in outcome.message


OUTPUT = {
  "lines": "while True: print('x' * 99)",
  "empty_lines": "while True: print()",
  "swallowed": "while True:\n  try: print('x')\n  except: pass",
  "one_long_line": "print('x' * 10 ** 7)",
  "surrogates": "print('\\ud800' * 10 ** 5)",
  "separator": "print('a', 'b', sep='x' * 10 ** 6)",
  "end": "while True: print('', end='x' * 10 ** 4)",
  "many_values": "print(*range(10 ** 5))",
  "in_a_key": "return list(map(print, range(10 ** 5)))",
  "in_recursion": "def f():\n  print('x' * 10 ** 4)\n  f()\nf()",
}


@pytest.mark.parametrize("name", OUTPUT)
def test_output(executor, name):
  outcome = contained.run(executor, OUTPUT[name])
  assert (outcome.status, outcome.error_class) == ("killed", "output")
  assert sum(len(event.text) for event in outcome.trace) <= 65536


RECURSION = {
  "function": "def f(): return f()\nreturn f()",
  "two_functions": "def f(): return g()\ndef g(): return f()\nreturn f()",
  "lambda": "f = lambda: f()\nreturn f()",
  "in_a_key": "def f(x): return max([x, x], key=f)\nreturn f(1)",
  "text_of_a_deep_list": "x = []\nfor i in range(10 ** 5): x = [x]\nreturn str(x)",
  "deep_lists_compared": """
x, y = [], []
for i in range(10 ** 5): x, y = [x], [y]
return x == y""",
  "list_in_itself": "x = []\nx.append(x)\nreturn x",
  "generator": "def g(): yield from g()\nreturn next(g())",
  "deep_answer": "x = ['a']\nfor i in range(10 ** 5): x = [x]\nreturn x",
}


@pytest.mark.parametrize("name", RECURSION)
def test_recursion(executor, name):
  outcome = contained.run(executor, RECURSION[name])
  assert (outcome.status, outcome.error_class) == ("killed", "recursion")


# The interpreter itself overflows its stack on these.
CRASHES = {
  "hash": "x = ()\nfor i in range(10 ** 6): x = (x,)\nreturn len({x: 1})",
  "iterators": "x = iter([1])\nfor i in range(10 ** 5): x = map(int, x)\nreturn next(x)",
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_no_answer_and_harms_nobody(executor, name):
  outcome = contained.run(executor, CRASHES[name])
  assert (outcome.status, outcome.answer) == ("killed", None)
  assert contained.is_well(executor)


# A limit of Python's own stops these: an error, not an end from outside.
LIMITED = {
  "digits_of_an_int": ("return str(10 ** 5000)", "value"),
  "digits_printed": ("print(10 ** 5000)", "value"),
  "digits_in_a_text": ("return int('9' * 5000)", "value"),
  "digits_in_an_error": ("raise KeyError(10 ** 5000)", "key"),
  "deep_list_in_an_error": (
    "x = []\nfor i in range(10 ** 5): x = [x]\nraise ValueError(x)",
    "value",
  ),
  "generator_in_itself": (
    "g = (next(g) for _ in [1])\nreturn next(g)",
    "value",
  ),
  "list_changed_in_sort": (
    "x = [3, 1, 2]\nx.sort(key=lambda v: x.append(v) or v)",
    "value",
  ),
  "dict_changed_in_loop": ("d = {1: 1}\nfor k in d: d[k + 1] = 1", "other"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits_of_python_itself(executor, name):
  body, error_class = LIMITED[name]
  outcome = contained.run(executor, body)
  assert (outcome.error_class, outcome.answer) == (error_class, None)
  assert len(outcome.message) < 1000


TOOL_CALLS = {
  "loop": "while True: ImagePatch(image).find('x')",
  "swallowed": "while True:\n  try: ImagePatch(image).find('x')\n  except: pass",
  "different": "for i in range(99): ImagePatch(image).find(str(i))",
  "in_a_key": "return max([ImagePatch(image)] * 99, key=ocr)",
  "in_recursion": "def f():\n  ocr(ImagePatch(image))\n  f()\nf()",
  "of_all_kinds": """
patch = ImagePatch(image)
for i in range(99):
  patch.image_caption()
  patch.visual_question_answering('x')
  ocr(patch)""",
}


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_tool_calls(executor, name):
  outcome = contained.run(executor, TOOL_CALLS[name])
  assert (outcome.status, outcome.error_class) == ("killed", "tool_calls")
  assert outcome.tool_calls == len(outcome.trace) == 20


def test_refused_tool_calls_do_not_come_to_the_host(executor):
  calls = []
  body = """
for i in range(30):
  try: ImagePatch(image).find(i)
  except Exception: pass
return 'x'"""
  outcome = contained.run(executor, body, lambda *call: calls.append(call))
  assert (outcome.answer, calls) == ("x", [])


@pytest.mark.parametrize("argument", ["'x' * 10 ** 7", "'\\ud800' * 10 ** 6"])
def test_huge_arguments_do_not_come_to_the_host(executor, argument):
  calls = []
  body = f"return len(ImagePatch(image).find({argument}))"
  outcome = contained.run(executor, body, lambda *call: calls.append(call))
  assert (outcome.answer, calls) == (None, [])


def test_wall_time_is_kept_from_outside_and_leaves_tools_out():
  def slow_tool(*_):
    time.sleep(0.6)
    return []

  with contained.start(wall_time_s=0.5, cpu_s=60) as executor:
    outcome = contained.run(executor, "while True: pass")
    assert (outcome.status, outcome.error_class) == ("killed", "wall_time")
    assert "0.5 s" in outcome.message
    body = "return len(ImagePatch(image).find('x'))"
    assert contained.run(executor, body, slow_tool).answer == "0"


@pytest.mark.parametrize(
  "body",
  [
    pytest.param("os.read(own_socket(), 1)", id="waits_for_the_host"),
    pytest.param("os.close(own_socket())\nwhile True: pass", id="hangs_up"),
    pytest.param(
      "import _thread\nlock = _thread.allocate_lock()\n"
      "lock.acquire()\nlock.acquire()",
      id="waits_for_itself",
    ),
    pytest.param("while True: send_raw(b'')", id="sends_nothing"),
    pytest.param(
      "send_raw(b'\\0\\0\\xff\\xff')\nwhile True: pass", id="half_a_frame"
    ),
  ],
)
def test_whoever_says_no_more_is_ended(tmp_path, body):
  with contained.start_ungated(tmp_path, wall_time_s=0.5) as executor:
    start_s = time.monotonic()
    outcome = contained.run_ungated(executor, body)
    assert outcome.status == "killed"
    assert time.monotonic() - start_s < 10
    assert contained.is_well(executor)


def test_no_process_is_left(executor):
  before = _descendants(os.getpid())
  contained.run(executor, "while True: pass")
  assert _descendants(os.getpid()) == before


@pytest.mark.parametrize(
  "body", ["return 'a' * 10 ** 10", "while True: print(1)", "return 1 / 0"]
)
def test_the_next_program_runs(executor, body):
  contained.run(executor, body)
  assert contained.is_well(executor)


def _descendants(pid):
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
