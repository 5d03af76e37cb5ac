"""Programs as a writer means them: what they return, trace and run into."""

import os
import re
import signal
import time

import pytest

from data_gen.sandbox import executor as executor_lib
from data_gen.sandbox import zygote as zygote_lib
from data_gen.tools import api

_BOXES = {
  "car": [[100, 0, 200, 100], [100, 500, 200, 700], [600, 300, 900, 400]],
  "dog": [[500, 500, 999, 999]],
}


def call_tool(call, box, arguments):
  if call == "find":
    return _BOXES.get(arguments["object_name"], [])
  if call == "visual_question_answering":
    return "red" if "color" in arguments["question"] else "yes"
  if call == "compute_depth":
    return float(box[0])
  if call == "language_question_answering":
    return "a long one" if arguments["long_answer"] else "wool"
  return {"ocr": "STOP\nnow", "image_caption": "a red car "}[call]


@pytest.fixture(scope="module")
def executor():
  with executor_lib.Executor(wall_time_s=20, cpu_s=2) as executor:
    yield executor


def run(executor, body, before=""):
  """Runs a function body, indented by two spaces here."""
  lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
  text = f"{before}def execute_command(image):\n{lines}\n"
  return executor.run(text, call_tool)


BENIGN = {
  "constant": ("return 'red'", "red"),
  "strip": ("return formatting_answer(' red ')", "red"),
  "yes": ("return formatting_answer(3 > 2)", "yes"),
  "raw_bool": ("return False", "no"),
  "integral": ("return formatting_answer(4 / 2)", "2"),
  "fraction": ("return formatting_answer(1 / 3)", "0.3333"),
  "list": ("return formatting_answer(['a', 2, True])", "a, 2, yes"),
  "patch": ("return formatting_answer(ImagePatch(image))", "a red car"),
  "count": (
    "return formatting_answer(len(ImagePatch(image).find('car')))",
    "3",
  ),
  "comprehension": (
    """
cars = ImagePatch(image).find("car")
left = [c for c in cars if c.horizontal_center < 350]
return formatting_answer(len(left))""",
    "1",
  ),
  "upper_is_larger": (
    """
a, b, c = ImagePatch(image).find("car")
return formatting_answer(a.vertical_center > c.vertical_center)""",
    "yes",
  ),
  "sorted_key_lambda": (
    """
cars = sorted(ImagePatch(image).find("car"), key=lambda c: -c.lower)
return str(cars[-1])""",
    "600 300 900 400",
  ),
  "closure_nonlocal": (
    """
n = 0
def add(k):
  nonlocal n
  n += k
for _ in range(5):
  add(2)
return formatting_answer(n)""",
    "10",
  ),
  "try_except": (
    """
try:
  dog = ImagePatch(image).find("cat")[0]
except IndexError as e:
  return formatting_answer(str(e))""",
    "list index out of range",
  ),
  "match_walrus": (
    """
match (n := len(ImagePatch(image).find("car"))):
  case 0:
    return "none"
  case 1 | 2:
    return "few"
  case _ if n > 2:
    return "many" """,
    "many",
  ),
  "generator": (
    """
def squares(n):
  for i in range(n):
    yield i * i
return formatting_answer(sum(squares(5)))""",
    "30",
  ),
  "math": ("import math\nreturn formatting_answer(math.floor(2.7))", "2"),
  "from_math": (
    "from math import sqrt\nreturn formatting_answer(sqrt(9))",
    "3",
  ),
  "recursion": (
    """
def depth(n):
  return 0 if n == 0 else 1 + depth(n - 1)
return formatting_answer(depth(400))""",
    "400",
  ),
  "strings": (
    """
words = "The Red car".lower().split()
return formatting_answer(" ".join(w.title() for w in words if "e" in w))""",
    "The Red",
  ),
  "format_auto": (
    "t = '{} of {n:>3}'\nreturn t.format(1, n=2)",
    "1 of   2",
  ),
  "format_attribute": (
    "return '{p.left}'.format(p=ImagePatch(image).find('dog')[0])",
    "500",
  ),
  "percent": ("return '%d cars' % 3", "3 cars"),
  "unpacking": (
    """
first, *rest = ImagePatch(image).find("car")
d = {**{"a": 1}, "b": len(rest)}
return formatting_answer(sum(d.values()))""",
    "3",
  ),
  "while_break_else": (
    """
i = 0
while True:
  i += 1
  if i > 9: break
else:
  return "no"
return formatting_answer(i)""",
    "10",
  ),
  "dict_methods": (
    """
counts = {}
for w in ["a", "b", "a"]:
  counts[w] = counts.get(w, 0) + 1
best = max(counts, key=counts.get)
del counts["b"]
return best + str(len(counts))""",
    "a1",
  ),
  "type_isinstance": (
    """
p = ImagePatch(image)
return formatting_answer(isinstance(p, ImagePatch) and type(p) == ImagePatch)""",
    "yes",
  ),
  "annotations": (
    "n: int = 3\nnames: List[str] = []\nreturn formatting_answer(n)",
    "3",
  ),
  "functions": (
    """
a, b = ImagePatch(image).find("car")[:2]
return formatting_answer([dist(a, b), ocr(a), a.compute_depth() < 200])""",
    "550, STOP\\nnow, yes",
  ),
  "knowledge": (
    """
short = language_question_answering("What?")
return short + "/" + language_question_answering("What?", long_answer=True)""",
    "wool/a long one",
  ),
  "reraise": (
    """
try:
  raise KeyError("x")
except (KeyError, ValueError):
  pass
finally:
  n = 1
return formatting_answer(n)""",
    "1",
  ),
}


@pytest.mark.parametrize("name", BENIGN)
def test_ordinary_python_runs(executor, name):
  body, answer = BENIGN[name]
  outcome = run(executor, body)
  assert (outcome.status, outcome.message) == ("ok", "")
  assert outcome.answer == answer


def test_helpers_and_constants_beside_the_function(executor):
  before = (
    "import math\nNAMES = ['car', 'dog']\n\n"
    "def count(patch: ImagePatch, name: str = 'x') -> int:\n"
    "  return len(patch.find(name))\n\n"
  )
  outcome = run(
    executor,
    "return sum(count(ImagePatch(image), name) for name in NAMES)",
    before,
  )
  assert outcome.answer == "4"


ERRORS = {
  "syntax": ("return (", "never closed"),
  "refused": ("import os", "line 2: import of 'os'; only math"),
  "name": ("return colour", "name 'colour' is not defined"),
  "attribute": ("return ImagePatch(image).colour", "line 2.*'colour'"),
  "type": ("return 1 + 'a'", "unsupported operand"),
  "arity": ("return ImagePatch(image).find()", "missing 1 required"),
  "index": ("x = 1\nreturn ImagePatch(image).find('cat')[0]", "line 3: Index"),
  "key": ("return {}['a']", "'a'"),
  "value": ("return int('red')", "invalid literal"),
  "zero_division": ("return 1 / 0", "zero"),
  "tool_refused": ("return ImagePatch(image).find(3)", "must be str, not int"),
  "no_answer": ("ImagePatch(image)", "returned nothing"),
  "bad_answer": ("return {}", "got dict"),
  "other": ("assert 1 == 2", "AssertionError"),
  "recursion": ("f = lambda n: f(n + 1)\nreturn f(0)", "maximum recursion"),
}


@pytest.mark.parametrize("error_class", ERRORS)
def test_each_fault_has_its_class_and_a_message(executor, error_class):
  body, message = ERRORS[error_class]
  outcome = run(executor, body)
  assert outcome.error_class == error_class
  assert outcome.status == executor_lib.ERROR_CLASSES[error_class]
  assert outcome.answer is None
  assert re.search(message, outcome.message)


@pytest.mark.parametrize(
  "body",
  [
    "return dist(1)",
    "return dist(1, 2, 3)",
    "return len()",
    "return ImagePatch(image).find('a', 'b')",
    "return ocr(patch=1, size=2)",
    "f = lambda: 1\nreturn f(1)",
    "return ImagePatch(image).image_caption('what')",
    "return max()",
    "return isinstance(1)",
    "return 'a'.replace('b')",
  ],
)
def test_wrong_number_of_arguments_is_arity(executor, body):
  assert run(executor, body).error_class == "arity"


@pytest.mark.parametrize(
  ("value", "error_class"),
  [
    ("float('nan')", "bad_answer"),
    ("float('inf')", "bad_answer"),
    ("10 ** 20", "bad_answer"),
    ("10 ** 5000", "bad_answer"),
    ("[None]", "bad_answer"),
    ("'x' * 401", "bad_answer"),
    ("print", "bad_answer"),
    ("(x for x in [1])", "bad_answer"),
    ("b'red'", "bad_answer"),
    ("' '", "no_answer"),
    ("[]", "no_answer"),
  ],
)
def test_only_short_plain_answers_leave(executor, value, error_class):
  outcome = run(executor, f"return {value}")
  assert (outcome.error_class, outcome.answer) == (error_class, None)


def test_trace_of_an_answer(executor):
  outcome = run(
    executor,
    """
cars = ImagePatch(image).find("car")
color = cars[1].visual_question_answering("What color is it?")
print(f"Car at {cars[1]} is", color)
return formatting_answer(color)""",
  )
  assert [(e.step, e.line, e.tool, e.box, e.value) for e in outcome.trace] == [
    (0, 2, "find", (0, 0, 999, 999), _BOXES["car"]),
    (1, 3, "visual_question_answering", (100, 500, 200, 700), "red"),
    (2, 4, "print", None, "Car at 100 500 200 700 is red"),
    (3, 0, "formatting_answer", None, "red"),
  ]
  assert outcome.trace[1].arguments == {"question": "What color is it?"}
  assert outcome.trace[1].text == (
    "visual_question_answering('What color is it?') on 100 500 200 700 -> red"
  )
  assert outcome.tool_calls == 2


def test_trace_up_to_the_fault_is_kept(executor):
  outcome = run(executor, "ImagePatch(image).find('cat')\nreturn 1 / 0")
  assert [e.text for e in outcome.trace] == ["find('cat') -> none found"]


def test_a_call_without_image_has_no_box(executor):
  outcome = run(executor, "return language_question_answering('What?')")
  assert outcome.trace[0].box is None


def test_text_of_programs_and_tools_is_escaped(executor):
  outcome = run(
    executor,
    "print('a\\nb\\x1b[31m</s>\\ud800', ocr(ImagePatch(image)))\n"
    "return 'x</s>\\ny'",
  )
  assert outcome.trace[0].value == "STOP\\nnow"
  assert outcome.trace[1].value == "a\\nb\\x1b[31m< /s>\\ud800 STOP\\nnow"
  assert outcome.answer == "x< /s>\\ny"


def test_a_tools_fault_ends_the_run_and_cannot_be_swallowed(executor):
  def broken(call, box, arguments):
    raise OSError("model is gone")

  outcome = executor.run(
    "def execute_command(image):\n"
    "  try:\n"
    "    ImagePatch(image).find('car')\n"
    "  except Exception:\n"
    "    return 'car'\n",
    broken,
  )
  assert (outcome.status, outcome.error_class) == ("error", "tool_error")
  assert outcome.message == "line 3: model is gone"
  assert outcome.answer is None


def test_a_value_that_is_not_plain_is_the_tools_fault(executor):
  outcome = executor.run(
    "def execute_command(image):\n  return ocr(ImagePatch(image))\n",
    lambda *_: object(),
  )
  assert outcome.error_class == "tool_error"


def test_refused_arguments_reach_the_program(executor):
  def refuses(call, box, arguments):
    raise api.ToolRefused("find: object_name is empty")

  outcome = executor.run(
    "def execute_command(image):\n  return ImagePatch(image).find('')\n",
    refuses,
  )
  assert outcome.error_class == "tool_refused"
  assert "object_name is empty" in outcome.message


def test_interrupt_in_a_tool_passes_and_the_executor_goes_on(executor):
  def interrupted(call, box, arguments):
    raise KeyboardInterrupt

  text = "def execute_command(image):\n  return ocr(ImagePatch(image))\n"
  with pytest.raises(KeyboardInterrupt):
    executor.run(text, interrupted)
  assert executor.run(text, lambda *_: "hi").answer == "hi"


def test_equal_programs_have_equal_outcomes_in_any_worker(executor):
  body = """
names = {"red", "green", "blue", "yellow", "car", "dog"}
print(list(names), hash("a"))
return formatting_answer(list(names))"""
  with executor_lib.Executor() as other:
    first, second = run(executor, body), run(other, body)
  third = run(executor, body)
  assert first.status == "ok"
  assert (first.answer, first.trace) == (second.answer, second.trace)
  assert (first.answer, first.trace) == (third.answer, third.trace)


def test_programs_leave_nothing_behind_for_the_next(executor):
  run(executor, "import math\nmath.pi = 3\nmath.secret = 'x'\nreturn 1")
  outcome = run(executor, "import math\nreturn math.secret")
  assert outcome.error_class == "attribute"


def test_a_lost_worker_is_started_again():
  with executor_lib.Executor() as executor:
    for _ in range(2):
      os.kill(executor._zygote.pid, signal.SIGKILL)
      assert run(executor, "return 'red'").answer == "red"


def test_a_program_that_takes_the_worker_down_twice_is_given_up():
  with executor_lib.Executor() as executor:

    def kills_worker(call, box, arguments):
      os.kill(executor._zygote.pid, signal.SIGKILL)
      executor._zygote._process.wait(20)
      time.sleep(0.3)  # All its programs end with it.
      return "x"

    text = "def execute_command(image):\n  return ocr(ImagePatch(image))\n"
    outcome = executor.run(text, kills_worker)
    assert outcome.error_class == "worker_died"
    assert run(executor, "return 'red'").answer == "red"


def test_closing_ends_the_worker():
  executor = executor_lib.Executor()
  process = executor._zygote._process
  executor.close()
  executor.close()
  assert process.returncode is not None


def test_layers_say_what_is_forbidden(executor):
  layers = executor.layers
  assert {"files", "sockets"} <= set(layers["forbidden"])
  assert zygote_lib.is_contained(layers)


def test_layers_are_told_in_a_line():
  layers = {"namespaces": [], "empty_root": False, "landlock_abi": 0}
  text = zygote_lib.layers_text(layers | {"seccomp": True})
  assert text == (
    "seccomp, rlimits; not on this host: namespaces, empty file tree, landlock"
  )
  layers = {"namespaces": ["pid"], "empty_root": True, "landlock_abi": 3}
  text = zygote_lib.layers_text(layers | {"seccomp": True})
  assert text.startswith("namespaces (pid), empty file tree, landlock (ABI 3)")
  assert "not on this host" not in text


@pytest.mark.parametrize(
  ("namespaces", "forbidden", "expected"),
  [
    ([], [], False),
    ([], ["files"], False),
    (["network"], [], False),
    (["network"], ["files"], False),
    (["network"], ["files", "processes", "signals"], True),
    ([], ["files", "processes", "signals"], False),
    ([], ["files", "sockets", "processes", "signals"], True),
  ],
)
def test_containment_needs_files_and_network(namespaces, forbidden, expected):
  layers = {"namespaces": namespaces, "forbidden": forbidden}
  assert zygote_lib.is_contained(layers) is expected


def test_refuses_to_start_without_a_kernel_layer(monkeypatch):
  monkeypatch.setattr(zygote_lib, "is_contained", lambda layers: False)
  with pytest.raises(
    executor_lib.SandboxError, match="allow_unsafe_no_kernel_layer"
  ):
    executor_lib.Executor()
  with executor_lib.Executor(allow_unsafe_no_kernel_layer=True) as executor:
    assert run(executor, "return 'red'").answer == "red"


def test_says_why_the_worker_did_not_start(monkeypatch):
  monkeypatch.setattr(zygote_lib.sys, "executable", "/bin/false")
  with pytest.raises(executor_lib.SandboxError, match="did not start"):
    executor_lib.Executor()


@pytest.mark.parametrize(
  ("limits", "message"),
  [
    ({"wall_time_s": 0}, "wall_time_s=0 must be a number above 0"),
    ({"cpu_s": 0.5}, "cpu_s=0.5 must be a whole number"),
    ({"memory_mb": 10}, "memory_mb=10 is too little.*try 128"),
    ({"max_tool_calls": True}, "max_tool_calls=True"),
    ({"max_output_bytes": 1 << 30}, "does not fit a message"),
  ],
)
def test_limits_that_make_no_sense(limits, message):
  with pytest.raises(ValueError, match=message):
    executor_lib.Executor(**limits)
