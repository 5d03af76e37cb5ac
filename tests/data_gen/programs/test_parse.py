"""What is taken out of a completion, and what the gate says of it."""

import ast

import pytest

from data_gen.programs import parse
from data_gen.sandbox import program

_PROGRAM = """\
import math

COLORS: list = ["red"]

# Counts.
def count(patch):
  return len(patch.find("car"))


def execute_command(image):
  # Look.
  patch = ImagePatch(image)

  return formatting_answer(count(patch))"""

COMPLETIONS = {
  "bare": _PROGRAM,
  "fence": f"```python\n{_PROGRAM}\n```",
  "fence_with_chatter": f"Sure! Here it is:\n\n```py\n{_PROGRAM}\n```\nDone.",
  "tilde_fence": f"~~~\n{_PROGRAM}\n~~~",
  "open_fence": f"```python\n{_PROGRAM}\n",
  "second_fence": f"```\npip install x\n```\nThen:\n```\n{_PROGRAM}\n```",
  "chatter": f"Here is the program.\n\n{_PROGRAM}\n\nThis counts the cars.",
  "heading": f"## Program\n{_PROGRAM}\n\n**Notes**\n- it counts",
  "list": f"{_PROGRAM}\n\n1. First it looks.\n2. Then it counts.",
  "carriage_returns": _PROGRAM.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_extract_finds_the_program(name):
  assert parse.extract(COMPLETIONS[name]) == _PROGRAM


def test_extract_gives_a_body_its_function():
  body = "  patch = ImagePatch(image)\n  return 'red'"
  assert parse.extract(body) == f"def execute_command(image):\n{body}"


@pytest.mark.parametrize(
  "text",
  [*COMPLETIONS.values(), "", "x", "def f(", "  return 1", "```", "Sure!\n\n"],
)
def test_extracting_twice_changes_nothing(text):
  once = parse.extract(text)
  assert parse.extract(once) == once


def test_code_after_the_program_is_not_dropped_in_silence():
  with pytest.raises(parse.ParseError, match="line 16: only definitions"):
    parse.parse(f"{_PROGRAM}\n\nprint(execute_command(image))")


def test_parse_gives_text_and_tree():
  parsed = parse.parse(f"```\n{_PROGRAM}\n```")
  assert parsed.text == _PROGRAM
  names = [n.name for n in parsed.tree.body if isinstance(n, ast.FunctionDef)]
  assert names == ["count", "execute_command"]


def test_annotations_are_dropped():
  text = (
    "N: int = 3\n"
    "def execute_command(image: PIL.Image, n: List[int] = 3) -> Answer:\n"
    "  x: Foo\n  y: Bar = 1\n  return y"
  )
  assert ast.unparse(parse.parse(text).tree) == (
    "N = 3\n\n"
    "def execute_command(image, n=3):\n    pass\n    y = 1\n    return y"
  )


def test_format_goes_through_the_safe_formatter():
  tree = parse.parse("def execute_command(i):\n  return '{}'.format(1)").tree
  assert "__safe_format__('{}')(1)" in ast.unparse(tree)


@pytest.mark.parametrize(
  ("text", "error_class", "message"),
  [
    (
      "def execute_command(image)\n  return 1",
      "syntax",
      "line 1: expected ':'",
    ),
    ("def execute_command(image):\nreturn 1", "syntax", "line 2: .*indent"),
    ("x = 1", "refused", r"one function execute_command\(image\), found 0"),
    ("", "refused", "found 0"),
    (f"{_PROGRAM}\n{_PROGRAM}", "refused", "line 2[0-9]: .*found 2"),
    (
      "def execute_command(image, query):\n  return 1",
      "refused",
      "line 1: execute_command must take one argument",
    ),
    ("def execute_command():\n  return 1", "refused", "must take one argument"),
    (
      "def execute_command(image, *, a):\n  return 1",
      "refused",
      "must take one argument",
    ),
    (
      "def execute_command(image):\n  import re\n  return 1",
      "refused",
      "line 2: import of 're'; only math can be imported",
    ),
    (
      "def execute_command(image):\n  return image.__dict__",
      "refused",
      "line 2: attribute '__dict__' cannot be used",
    ),
    (
      "def execute_command(image):\n  class A:\n    pass",
      "refused",
      "line 2: class definitions cannot be used",
    ),
    (
      "def execute_command(image):\n  return getattr(image, 'x')",
      "refused",
      "line 2: 'getattr' cannot be used",
    ),
    ("x = 1\n" * 4000, "refused", "23999 characters.*at most 20000"),
    ("x" * 100_001, "refused", "over 100000 characters"),
    ("\0", "syntax", "null bytes"),
    (
      "def execute_command(image):\n  return '\ud800'",
      "syntax",
      "surrogates not allowed",
    ),
    (
      f"def execute_command(image):\n  return {'(' * 300}{')' * 300}",
      "syntax",
      "nested",
    ),
    (
      f"def execute_command(image):\n  return {'-' * 9000}1",
      "syntax",
      "nested",
    ),
  ],
)
def test_the_gate_says_what_and_where(text, error_class, message):
  with pytest.raises(parse.ParseError, match=message) as raised:
    parse.parse(text)
  assert raised.value.error_class == error_class


def _deep(kind, depth, has_work):
  """A program of nested nodes, with or without something to rewrite."""
  lines = {
    "sum": [f"x = {'+'.join('1' * depth)}"],
    "attribute": [f"x = image{'.a' * depth}"],
    "elif": ["if image:", "  pass", *["elif image:", "  pass"] * depth],
  }[kind]
  if has_work:
    lines.append("y = '{}'.format(1)")
  body = "\n  ".join([*lines, "return 'x'"])
  return f"def execute_command(image):\n  {body}\n"


@pytest.mark.parametrize("has_work", [False, True])
@pytest.mark.parametrize("kind", ["sum", "attribute", "elif"])
def test_depth_is_limited_whatever_else_is_there(kind, has_work):
  near = parse.MAX_DEPTH - 10
  program.compile_program(parse.parse(_deep(kind, near, has_work)))
  with pytest.raises(parse.ParseError, match="too deeply nested"):
    parse.parse(_deep(kind, parse.MAX_DEPTH, has_work))


@pytest.mark.parametrize(
  "body",
  [
    "object = 1\n  return object",  # A builtin's name as one's own.
    "input, dir = 1, 2\n  return input + dir",
    "_ = 1\n  _a = 2\n  return _a",
    "return [y for x in [[1]] for y in x if y][0]",
    "return (lambda a, /, *b, c=1, **d: a)(1)",
    "a = {**{}}\n  a['b'] = [*range(3)]\n  a['b'] += [1]\n  return 'x'",
  ],
)
def test_ordinary_python_passes(body):
  parse.parse(f"def execute_command(image):\n  {body}")


def test_type_parameters_and_exception_groups_are_refused():
  text = "def execute_command(image):\n  try: pass\n  except* ValueError: pass"
  with pytest.raises(parse.ParseError, match=r"except\* cannot be used"):
    parse.parse(text)
