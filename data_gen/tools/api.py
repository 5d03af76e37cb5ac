"""What a program may call; its docstrings are the prompt's API section.

`prompt_text` renders them, so the prompt cannot drift from the code. This
module runs inside the contained worker: it needs the standard library only,
holds no image and no model, and sends each tool call through the one function
that it is given:

    names = namespace(call)      # call(tool, box, arguments) -> plain value
    image = Image(call)          # the argument of execute_command

Decisions where ViperGPT and VPD leave a trap: all coordinates are those of
the whole image, also inside a crop; crops get no margin; touching boxes do
not overlap; a larger depth is farther; the question of
`visual_question_answering` may be left out.
"""

import inspect
import math
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Box = tuple[int, int, int, int]  # y1 x1 y2 x2 on the 0..999 grid, top left.
CallTool = Callable[[str, Box | None, dict[str, Any]], Any]

WHOLE: Box = (0, 0, 999, 999)


class Shape(NamedTuple):
  """Types of a tool call, beyond the image and the box."""

  arguments: Mapping[str, type]
  result: str


CALLS: Mapping[str, Shape] = types.MappingProxyType(
  {
    "find": Shape({"object_name": str}, "boxes"),
    "visual_question_answering": Shape({"question": str}, "text"),
    "image_caption": Shape({}, "text"),
    "compute_depth": Shape({}, "number"),
    "ocr": Shape({}, "text"),
    "language_question_answering": Shape(
      {"question": str, "long_answer": bool}, "text"
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


class ImagePatch:
  """A rectangular part of the image; the whole of it at first.

  Coordinates run over 0..999 on each axis of the whole image, also for a
  patch inside a patch. Their origin is the lower left corner: a larger
  `upper`, `lower` or `vertical_center` is higher up in the image, a larger
  `left`, `right` or `horizontal_center` is further to the right.
  str(patch) is "y1 x1 y2 x2" on the same 0..999 scale, counted from the TOP
  left corner, as boxes are written in text.

  Attributes:
    left, right: vertical borders, int.
    lower, upper: horizontal borders, int; lower < upper.
    horizontal_center, vertical_center: of the patch, float.
    width, height: int.
  """

  __slots__ = ("_box", "_image")

  def __init__(self, image):
    """Makes the patch that covers the whole image.

    >>> image_patch = ImagePatch(image)
    """
    if not isinstance(image, Image):
      raise TypeError(
        "ImagePatch takes the image given to execute_command, not "
        f"{type(image).__name__}"
      )
    self._image = image
    self._box = WHOLE

  def find(self, object_name: str) -> list["ImagePatch"]:
    """The objects of this name in the patch, top to bottom, then left to
    right; an empty list if there is none. Use a simple noun.

    >>> # How many cars have their lights on?
    >>> def execute_command(image):
    >>>   image_patch = ImagePatch(image)
    >>>   cars = [
    >>>     car for car in image_patch.find("car")
    >>>     if car.visual_question_answering("Are its lights on?") == "yes"
    >>>   ]
    >>>   print(f"Cars with lights on: {', '.join(map(str, cars))}.")
    >>>   return formatting_answer(len(cars))
    """
    boxes = self._ask("find", object_name=object_name)
    return [_patch(self._image, tuple(box)) for box in boxes]

  def visual_question_answering(self, question: str = "What is this?") -> str:
    """A short answer to a basic question about what the patch shows.

    >>> # What color is the bus?
    >>> def execute_command(image):
    >>>   buses = ImagePatch(image).find("bus")
    >>>   if not buses:
    >>>     return formatting_answer("none")
    >>>   color = buses[0].visual_question_answering("What color is it?")
    >>>   print(f"The bus at {buses[0]} is {color}.")
    >>>   return formatting_answer(color)
    """
    return self._ask("visual_question_answering", question=question)

  def image_caption(self) -> str:
    """A short description of what the patch shows."""
    return self._ask("image_caption")

  def compute_depth(self) -> float:
    """How far away the content of the patch is; larger is farther.

    >>> # Is the dog in front of the tree?
    >>> is_in_front = dog.compute_depth() < tree.compute_depth()
    """
    return self._ask("compute_depth")

  def expand_patch_with_surrounding(self) -> "ImagePatch":
    """The patch with its surroundings: twice as wide and as high, with the
    same center, cut at the image's borders.

    >>> # Is the boy under an umbrella?
    >>> around = boy.expand_patch_with_surrounding()
    >>> around.visual_question_answering("Is the boy under an umbrella?")
    """
    y1, x1, y2, x2 = self._box
    more_y, more_x = (y2 - y1) // 2, (x2 - x1) // 2
    box = (y1 - more_y, x1 - more_x, y2 + more_y, x2 + more_x)
    return _patch(self._image, _clip(box, WHOLE))

  def overlaps(self, patch: "ImagePatch") -> bool:
    """Whether the two patches share an area; touching ones do not."""
    a, b = self._box, _box_of("overlaps", patch)
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

  def crop(self, left, lower, right, upper) -> "ImagePatch":
    """The part of this patch inside the given borders, which are of the whole
    image, like a patch's attributes.

    >>> # the part of the image to the left of the door
    >>> image_patch.crop(0, 0, door.left, 999)
    """
    left, lower, right, upper = (
      _coordinate(name, value)
      for name, value in (
        ("left", left),
        ("lower", lower),
        ("right", right),
        ("upper", upper),
      )
    )
    y1, x1, y2, x2 = _clip((999 - upper, left, 999 - lower, right), self._box)
    if y1 >= y2 or x1 >= x2:
      raise ValueError(
        f"crop(left={left}, lower={lower}, right={right}, upper={upper}) has "
        "no area inside the patch"
      )
    return _patch(self._image, (y1, x1, y2, x2))

  @property
  def left(self) -> int:
    return self._box[1]

  @property
  def right(self) -> int:
    return self._box[3]

  @property
  def lower(self) -> int:
    return 999 - self._box[2]

  @property
  def upper(self) -> int:
    return 999 - self._box[0]

  @property
  def horizontal_center(self) -> float:
    return (self._box[1] + self._box[3]) / 2

  @property
  def vertical_center(self) -> float:
    return 999 - (self._box[0] + self._box[2]) / 2

  @property
  def width(self) -> int:
    return self._box[3] - self._box[1]

  @property
  def height(self) -> int:
    return self._box[2] - self._box[0]

  def __str__(self):
    return " ".join(map(str, self._box))

  def __repr__(self):
    return f"ImagePatch({self})"

  def __eq__(self, other):
    return isinstance(other, ImagePatch) and self._box == other._box

  def __hash__(self):
    return hash(self._box)

  def _ask(self, tool, **arguments):
    return _checked_call(self._image._call, tool, self._box, arguments)


class Functions:
  """The functions beside ImagePatch, bound to one program's calls."""

  def __init__(self, call: CallTool):
    self._call = call

  def language_question_answering(
    self, question: str, long_answer: bool = False
  ) -> str:
    """An answer from general knowledge; the question must not need the image.
    One or a few words, or sentences if long_answer.

    >>> language_question_answering("Which animal gives wool?")
    """
    arguments = {"question": question, "long_answer": long_answer}
    return _checked_call(
      self._call, "language_question_answering", None, arguments
    )

  def ocr(self, patch: ImagePatch) -> str:
    """The words that are written in the patch; "" if there are none.

    >>> ocr(sign)
    """
    return _checked_call(self._call, "ocr", _box_of("ocr", patch), {})

  def dist(self, patch_a: ImagePatch, patch_b: ImagePatch) -> float:
    """The distance between the centers of two patches.

    >>> nearest = min(chairs, key=lambda chair: dist(chair, table))
    """
    a, b = _box_of("dist", patch_a), _box_of("dist", patch_b)
    return math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2

  def formatting_answer(self, answer) -> str:
    """The short text that `execute_command` must return: "yes" or "no" for a
    bool, the number for a number, a comma-separated text for a list.

    >>> return formatting_answer(len(cars))
    """
    if isinstance(answer, ImagePatch):
      return answer.image_caption().strip()
    if isinstance(answer, list | tuple):
      return ", ".join(map(self.formatting_answer, answer))
    return answer_text(answer)


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
    return str(int(value)) if is_integral else str(round(value, 4))
  raise BadAnswer(
    "expected text, a bool, a number, a list of them or a patch, got "
    f"{type(value).__name__}"
  )


def namespace(call: CallTool) -> dict[str, Any]:
  """The names that a program finds defined, bound to `call`."""
  functions = Functions(call)
  return {"ImagePatch": ImagePatch} | {
    name: getattr(functions, name) for name in _public(Functions)
  }


def prompt_text() -> str:
  """The API as a Python stub with docstrings, for a program writer."""
  return "\n\n".join(
    [
      "class ImagePatch:\n" + _docstring(ImagePatch, indent="  "),
      _stub(ImagePatch.__init__, indent="  "),
      *(
        _stub(getattr(ImagePatch, name), indent="  ")
        for name in _public(ImagePatch)
      ),
      *(
        _stub(getattr(Functions, name), indent="").replace("(self, ", "(")
        for name in _public(Functions)
      ),
    ]
  )


def _public(cls):
  return [
    name
    for name, member in vars(cls).items()
    if not name.startswith("_") and inspect.isfunction(member)
  ]


def _stub(function, indent):
  signature = str(inspect.signature(function))
  signature = signature.replace("'ImagePatch'", "ImagePatch")
  signature = signature.replace("data_gen.tools.api.", "")
  body = _docstring(function, indent="  ")
  stub = f"def {function.__name__}{signature}:\n{body}"
  return textwrap.indent(stub, indent)


def _docstring(documented, indent):
  doc = inspect.getdoc(documented) or ""
  end = "\n" if "\n" in doc else ""
  return textwrap.indent(f'"""{doc}{end}"""', indent)


def _patch(image, box):
  patch = object.__new__(ImagePatch)
  patch._image = image
  patch._box = box
  return patch


def _box_of(name, patch):
  if not isinstance(patch, ImagePatch):
    raise TypeError(f"{name} takes a patch, not {type(patch).__name__}")
  return patch._box


def _coordinate(name, value):
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{name} must be a number, not {type(value).__name__}")
  if not math.isfinite(value):
    raise ValueError(f"{name} must be finite, got {value}")
  return round(value)


def _clip(box, outer):
  y1, x1, y2, x2 = box
  return (
    max(y1, outer[0]),
    max(x1, outer[1]),
    min(y2, outer[2]),
    min(x2, outer[3]),
  )


def _checked_call(call, tool, box, arguments):
  for name, kind in CALLS[tool].arguments.items():
    if type(arguments[name]) is not kind:
      raise ToolRefused(
        f"{tool}: {name} must be {kind.__name__}, not "
        f"{type(arguments[name]).__name__}"
      )
  return call(tool, box, arguments)
