"""What crosses between a program and the host, whichever API it sees.

A call is a name, a box of the image and plain arguments; `CALLS` declares
them all. The contained worker runs this too: standard library only, with no
image and no model in reach.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Box = tuple[int, int, int, int]  # y1 x1 y2 x2 on the 0..999 grid, top left.
CallTool = Callable[[str, Box | None, dict[str, Any]], Any]

WHOLE: Box = (0, 0, 999, 999)


class Shape(NamedTuple):
  """Types of a tool call, beyond the image and the box.

  Attributes:
    arguments: name -> str, bool, or list: one or more texts.
    result: "boxes", "text", "number", "bool", or "numbers": one for each text
      of the argument that is a list.
    is_llm: whether a language model answers it.
  """

  arguments: Mapping[str, type]
  result: str
  is_llm: bool = False


CALLS: Mapping[str, Shape] = types.MappingProxyType(
  {
    "find": Shape({"object_name": str}, "boxes"),
    "visual_question_answering": Shape({"question": str}, "text"),
    "image_caption": Shape({}, "text"),
    "compute_depth": Shape({}, "number"),
    "ocr": Shape({}, "text"),
    "verify_property": Shape({"object_name": str, "attribute": str}, "bool"),
    "match_scores": Shape({"texts": list}, "numbers"),
    "language_question_answering": Shape(
      {"question": str, "long_answer": bool}, "text", is_llm=True
    ),
  }
)


class ToolRefused(Exception):
  """A program called a tool with arguments that it does not take."""


class BadAnswer(Exception):
  """A value that is no short plain answer."""


class Image:
  """The opaque handle that `execute_command` is given."""

  __slots__ = ("_call",)

  def __init__(self, call: CallTool):
    self._call = call

  def __repr__(self):
    return "image"


def check_and_call(
  call: CallTool, tool: str, box: Box | None, arguments: dict[str, Any]
) -> Any:
  """Makes a call whose arguments have the types that it declares.

  Raises:
    ToolRefused: if they have not.
  """
  for name, kind in CALLS[tool].arguments.items():
    value = arguments[name]
    if kind is list:
      _check_texts(tool, name, value)
    elif type(value) is not kind:
      raise ToolRefused(
        f"{tool}: {name} must be {kind.__name__}, not {type(value).__name__}"
      )
  return call(tool, box, arguments)


def answer_text(value: Any) -> str:
  """A plain value as answer text.

  Raises:
    BadAnswer: if it is no text, bool or finite number below 1e15 in size.
  """
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, str):
    return value.strip()
  if isinstance(value, int | float):
    if not abs(value) < 1e15:
      raise BadAnswer("the number is not finite, or 1e15 or larger in size")
    is_integral = value == int(value)
    return (
      str(int(value))
      if is_integral
      else (str(round(value, 4)) if abs(value) >= 1e-3 else f"{value:.4g}")
    )
  raise BadAnswer(
    "expected text, a bool, a number, a list of them or a patch, got "
    f"{type(value).__name__}"
  )


def _check_texts(tool, name, value):
  if type(value) is not list or not value:
    what = "an empty list" if value == [] else type(value).__name__
    raise ToolRefused(f"{tool}: {name} must be a list of texts, not {what}")
  for item in value:
    if type(item) is not str:
      raise ToolRefused(
        f"{tool}: {name} must hold texts, not {type(item).__name__}"
      )
