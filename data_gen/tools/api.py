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
`visual_question_answering` may be left out. `api_viper` is the other API.
"""

import math
from collections.abc import Mapping
from typing import Any

from data_gen.tools import api_calls, api_patch, api_prompt

Box = api_calls.Box
CallTool = api_calls.CallTool
Shape = api_calls.Shape
Image = api_calls.Image
ToolRefused = api_calls.ToolRefused
BadAnswer = api_calls.BadAnswer
answer_text = api_calls.answer_text

WHOLE: Box = api_calls.WHOLE
CALLS: Mapping[str, Shape] = api_calls.CALLS


class ImagePatch(api_patch.Patch):
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

  __slots__ = ()

  def __init__(self, image):
    """Makes the patch that covers the whole image.

    >>> image_patch = ImagePatch(image)
    """
    super().__init__(image)

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
    return self._found(object_name)

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
    return self._at(api_patch.clip(box, WHOLE))

  def overlaps(self, patch: "ImagePatch") -> bool:
    """Whether the two patches share an area; touching ones do not."""
    return self._shares_area(api_patch.box_of("overlaps", patch))

  def crop(self, left, lower, right, upper) -> "ImagePatch":
    """The part of this patch inside the given borders, which are of the whole
    image, like a patch's attributes.

    >>> # the part of the image to the left of the door
    >>> image_patch.crop(0, 0, door.left, 999)
    """
    return self._cut("crop", left, lower, right, upper)


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
    return api_calls.check_and_call(
      self._call, "language_question_answering", None, arguments
    )

  def ocr(self, patch: ImagePatch) -> str:
    """The words that are written in the patch; "" if there are none.

    >>> ocr(sign)
    """
    return api_calls.check_and_call(
      self._call, "ocr", api_patch.box_of("ocr", patch), {}
    )

  def dist(self, patch_a: ImagePatch, patch_b: ImagePatch) -> float:
    """The distance between the centers of two patches.

    >>> nearest = min(chairs, key=lambda chair: dist(chair, table))
    """
    a, b = api_patch.box_of("dist", patch_a), api_patch.box_of("dist", patch_b)
    return math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2

  def formatting_answer(self, answer) -> str:
    """The short text that `execute_command` must return: "yes" or "no" for a
    bool, the number for a number, a comma-separated text for a list.

    >>> return formatting_answer(len(cars))
    """
    return format_answer(answer)


def format_answer(value: Any) -> str:
  """What a program returned, as answer text; a patch becomes its caption.

  Raises:
    BadAnswer: if it is no answer; see `answer_text`.
  """
  if isinstance(value, ImagePatch):
    return value.image_caption().strip()
  if isinstance(value, list | tuple):
    return ", ".join(map(format_answer, value))
  return answer_text(value)


def namespace(call: CallTool) -> dict[str, Any]:
  """The names that a program finds defined, bound to `call`."""
  functions = Functions(call)
  return {"ImagePatch": ImagePatch} | {
    name: getattr(functions, name) for name in api_prompt.public(Functions)
  }


def prompt_text() -> str:
  """The API as a Python stub with docstrings, for a program writer."""
  return api_prompt.render(ImagePatch, Functions)
