"""ViperGPT's set of calls; its docstrings are that prompt's API section.

The names and arguments are those of ViperGPT (Suris et al., arXiv:2303.08128),
so that programs written for it run. Where its code and its prompt differ, or
its result surprises, the docstrings here say what holds:

- Coordinates are the 0..999 grid of the whole image, not pixels, also inside a
  crop; crops get no margin; boxes that only touch do not overlap.
- `exists` asks about each patch that is found, so it costs up to 1 + n calls.
- `verify_property` takes two arguments; `simple_query` may have none.
- A larger depth is farther, and is a float.
- `find` passes each name on as it is, also "object" and "person".
- `best_image_match` of no patches is None.
- `coerce_to_numeric("25to26")` is 25. `bool_to_yesno` takes a bool only, as
  the text "no" would be true.

The contained worker runs this: standard library only.
"""

import math
import re
from typing import Any, TypeGuard

from data_gen.tools import api_calls, api_numbers, api_patch, api_prompt

_YES = re.compile(r"\W*yes\b", re.IGNORECASE)


class ImagePatch(api_patch.Patch):
  """A rectangular part of the image; the whole of it at first.

  Coordinates run over 0..999 on each axis of the whole image, also for a
  patch inside a patch; they are not pixels. Their origin is the lower left
  corner: a larger `upper`, `lower` or `vertical_center` is higher up in the
  image, a larger `left`, `right` or `horizontal_center` is further to the
  right. str(patch) is "y1 x1 y2 x2" on the same 0..999 scale, counted from
  the TOP left corner, as boxes are written in text.

  Attributes:
    left, right: vertical borders, int.
    lower, upper: horizontal borders, int; lower < upper.
    horizontal_center, vertical_center: of the patch, float.
    width, height: int.
  """

  __slots__ = ()

  def __init__(self, image, left=None, lower=None, right=None, upper=None):
    """Makes the patch inside the given borders; a border that is left out is
    the image's.

    >>> image_patch = ImagePatch(image)
    >>> left_half = ImagePatch(image, right=500)
    """
    super().__init__(image)
    part = self._cut(
      "ImagePatch",
      0 if left is None else left,
      0 if lower is None else lower,
      999 if right is None else right,
      999 if upper is None else upper,
    )
    self._box = part._box

  def find(self, object_name: str) -> list["ImagePatch"]:
    """The objects of this name in the patch, top to bottom, then left to
    right; an empty list if there is none. Use a simple noun, or "object".

    >>> # How many of the cups are blue?
    >>> def execute_command(image):
    >>>   cups = ImagePatch(image).find("cup")
    >>>   return len([c for c in cups if c.verify_property("cup", "blue")])
    """
    return self._found(object_name)

  def exists(self, object_name: str) -> bool:
    """Whether the object is in the patch. What find() gives is asked about
    patch by patch, "Is this a ...?", until one answer is yes. For a number,
    such as "7" or "number seven", it asks which number is written there.

    >>> # Is there a clock, but no mirror?
    >>> def execute_command(image):
    >>>   patch = ImagePatch(image)
    >>>   return bool_to_yesno(patch.exists("clock") and not patch.exists("mirror"))
    """
    number = _number_name(object_name)
    if number is not None:
      answer = self.simple_query("What number is written here, in digits?")
      return api_numbers.first_number(answer) == number
    patches = self.find(object_name)
    question = f"Is this {_with_article(object_name)}?"
    return any(_YES.match(p.simple_query(question)) for p in patches)

  def verify_property(self, object_name: str, attribute: str) -> bool:
    """Whether the object in the patch has the attribute. Takes two arguments:
    the object's name, and a color, a material or the like.

    >>> # Is the gate on the left wooden?
    >>> def execute_command(image):
    >>>   gates = ImagePatch(image).find("gate")
    >>>   if not gates:
    >>>     return "no"
    >>>   gate = min(gates, key=lambda gate: gate.horizontal_center)
    >>>   return bool_to_yesno(gate.verify_property("gate", "wooden"))
    """
    return self._ask(
      "verify_property", object_name=object_name, attribute=attribute
    )

  def best_text_match(
    self, option_list: list[str], prefix: str | None = None
  ) -> str:
    """The option that fits the patch best, as it stands in the list; the first
    of equal ones. A prefix is put before each option.

    >>> # Is the wall made of brick or of stone?
    >>> wall.best_text_match(["brick", "stone"], prefix="a wall of")
    """
    options = _texts("option_list", option_list)
    start = "" if prefix is None else _text("prefix", prefix) + " "
    texts = [start + option for option in options]
    scores = self._ask("match_scores", texts=texts)
    return options[_index_of_highest(scores)]

  def simple_query(self, question: str = "What is this?") -> str:
    """A short answer to a basic question about what the patch shows; without a
    question, what it is.

    >>> # Which animal is on the sofa?
    >>> sofa.simple_query("Which animal is on the sofa?")
    """
    return self._ask("visual_question_answering", question=question)

  def compute_depth(self) -> float:
    """How far away the content of the patch is; larger is farther.

    >>> # the ball that is closest to the camera
    >>> closest = min(balls, key=lambda ball: ball.compute_depth())
    """
    return float(self._ask("compute_depth"))

  def crop(self, left: int, lower: int, right: int, upper: int) -> "ImagePatch":
    """The part of this patch inside the given borders, which are of the whole
    image, like a patch's attributes.

    >>> # the part of the image above the shelf
    >>> image_patch.crop(0, shelf.upper, 999, 999)
    """
    return self._cut("crop", left, lower, right, upper)

  def overlaps_with(
    self, left: int, lower: int, right: int, upper: int
  ) -> bool:
    """Whether the patch shares an area with the box inside these borders;
    touching ones do not. Takes four numbers, not a patch.

    >>> cat.overlaps_with(mat.left, mat.lower, mat.right, mat.upper)
    """
    return self._shares_area(api_patch.box_between(left, lower, right, upper))

  def llm_query(self, question: str, long_answer: bool = True) -> str:
    """The same as the function llm_query, without context; it does not see
    the patch."""
    return _ask_llm(self._image._call, question, long_answer)


class Functions:
  """The functions beside ImagePatch, bound to one program's calls."""

  def __init__(self, call: api_calls.CallTool):
    self._call = call

  def best_image_match(
    self,
    list_patches: list[ImagePatch],
    content: list[str] | str,
    return_index: bool = False,
  ) -> ImagePatch | int | None:
    """The patch that fits the text best, by the mean over several texts, or
    its index; the first of equal ones. None for an empty list.

    >>> # the person who holds an umbrella
    >>> best_image_match(people, ["person with an umbrella"])
    """
    for patch in list_patches:
      api_patch.box_of("best_image_match", patch)
    if not list_patches:
      return None
    texts = (
      [content] if isinstance(content, str) else _texts("content", content)
    )
    means = []
    for patch in list_patches:
      scores = patch._ask("match_scores", texts=texts)
      means.append(math.fsum(scores) / len(scores))
    best = _index_of_highest(means)
    return best if return_index else list_patches[best]

  def distance(
    self, patch_a: ImagePatch | float, patch_b: ImagePatch | float
  ) -> float:
    """The distance between the borders of two patches; where they overlap,
    minus the share of their joint area that they have in common. Of two
    numbers: how much they differ.

    >>> nearest = min(chairs, key=lambda chair: distance(chair, lamp))
    """
    if _is_number(patch_a) and _is_number(patch_b):
      return float(abs(patch_a - patch_b))
    a = api_patch.box_of("distance", patch_a)
    b = api_patch.box_of("distance", patch_b)
    y1, x1, y2, x2 = api_patch.clip(a, b)
    if y1 < y2 and x1 < x2:
      common = (y2 - y1) * (x2 - x1)
      return -common / (_area(a) + _area(b) - common)
    return math.hypot(max(0, y1 - y2), max(0, x1 - x2))

  def bool_to_yesno(self, bool_answer: bool) -> str:
    """The text "yes" for True, "no" for False. Takes a bool only.

    >>> bool_to_yesno(len(dogs) > 1)
    """
    if not isinstance(bool_answer, bool):
      kind = type(bool_answer).__name__
      raise TypeError(f"bool_to_yesno takes a bool, not {kind}")
    return "yes" if bool_answer else "no"

  def coerce_to_numeric(
    self, string: str, no_string: bool = False
  ) -> int | float | str:
    """The first number in a text, in digits or words: 25 for "25to26", "25-26"
    and "twenty-five", 1200 for "1,200". A date with a month's name gives its
    year. A text without a number comes back as it is, or is a ValueError if
    no_string.

    >>> coerce_to_numeric(sign.simple_query("What is the speed limit?"))
    """
    if _is_number(string):
      return string
    value = api_numbers.first_number(_text("coerce_to_numeric", string))
    if value is not None:
      return value
    if no_string:
      raise ValueError(f"no number in {string[:80]!r}")
    return string

  def llm_query(
    self, query: str, context: str | None = None, long_answer: bool = True
  ) -> str:
    """An answer from general knowledge; the question must not need the image.
    Sentences, or one or a few words if not long_answer. The context is text
    to read for it.

    >>> llm_query("Which country makes this car?", "a Fiat", long_answer=False)
    """
    if context is not None:
      query = f"{_text('query', query)}\nContext: {_text('context', context)}"
    return _ask_llm(self._call, query, long_answer)

  def process_guesses(
    self, prompt: str, guess1: str | None = None, guess2: str | None = None
  ) -> str:
    """A short answer to the question in `prompt`, from general knowledge and
    up to two guesses that may be wrong.

    >>> guess = picture.simple_query("Which city is this?")
    >>> process_guesses("Which city has a tower like this?", guess)
    """
    lines = [_text("prompt", prompt)]
    for guess in (guess1, guess2):
      if guess is not None:
        lines.append(f"A guess, maybe wrong: {_text('guess', guess)}")
    return _ask_llm(self._call, "\n".join(lines), False)


def namespace(call: api_calls.CallTool) -> dict[str, Any]:
  """The names that a program finds defined, bound to `call`."""
  functions = Functions(call)
  return {"ImagePatch": ImagePatch} | {
    name: getattr(functions, name) for name in api_prompt.public(Functions)
  }


def prompt_text() -> str:
  """The API as a Python stub with docstrings, for a program writer."""
  return api_prompt.render(ImagePatch, Functions)


def format_answer(value: Any) -> str:
  """What a program returned, as answer text; a patch becomes its box.

  Raises:
    BadAnswer: if it is no answer; see `api_calls.answer_text`.
  """
  if isinstance(value, ImagePatch):
    return str(value)
  if isinstance(value, list | tuple):
    return ", ".join(map(format_answer, value))
  return api_calls.answer_text(value)


def _ask_llm(call, question, long_answer):
  arguments = {"question": question, "long_answer": long_answer}
  return api_calls.check_and_call(
    call, "language_question_answering", None, arguments
  )


def _number_name(object_name):
  """The number that a name is, as "7" or "number seven"; None if it is not.

  "number plate" and "two dogs" are names of things.
  """
  if not isinstance(object_name, str):
    return None
  name = object_name.lower().strip().removeprefix("number ").strip()
  return api_numbers.whole_number(name)


def _with_article(name):
  return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _index_of_highest(scores):
  return max(range(len(scores)), key=scores.__getitem__)


def _texts(name, value):
  """A program's list or tuple of texts, as a list."""
  if not isinstance(value, list | tuple) or not value:
    raise api_calls.ToolRefused(
      f"{name} must be a list of texts that is not empty"
    )
  return [_text(f"each of {name}", item) for item in value]


def _text(name, value):
  if not isinstance(value, str):
    raise api_calls.ToolRefused(
      f"{name} must be text, not {type(value).__name__}"
    )
  return value


def _is_number(value: Any) -> TypeGuard[int | float]:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _area(box):
  return (box[2] - box[0]) * (box[3] - box[1])
