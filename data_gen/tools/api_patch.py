"""The patch that every program API builds on: a box and its geometry.

An API's own `ImagePatch` adds the methods that its programs see, with the
docstrings of its prompt. Standard library only: the contained worker runs it.
"""

from typing import Any, Self

from data_gen.tools import api_calls


class Patch:
  """A box of the image; whole-image coordinates, origin at the lower left."""

  __slots__ = ("_box", "_image")

  def __init__(self, image):
    if not isinstance(image, api_calls.Image):
      raise TypeError(
        "ImagePatch takes the image given to execute_command, not "
        f"{type(image).__name__}"
      )
    self._image = image
    self._box = api_calls.WHOLE

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
    return isinstance(other, Patch) and self._box == other._box

  def __hash__(self):
    return hash(self._box)

  def _ask(self, tool: str, **arguments: Any) -> Any:
    call = self._image._call
    return api_calls.check_and_call(call, tool, self._box, arguments)

  def _at(self, box: api_calls.Box) -> Self:
    """A patch of the same image at another box."""
    patch = object.__new__(type(self))
    patch._image = self._image
    patch._box = box
    return patch

  def _found(self, object_name: str) -> list[Any]:
    """Patches of this class."""
    boxes = self._ask("find", object_name=object_name)
    return [self._at(tuple(box)) for box in boxes]

  def _cut(self, what: str, left, lower, right, upper) -> Self:
    """The part inside borders; `what` names the call in messages."""
    box = box_between(left, lower, right, upper)
    y1, x1, y2, x2 = clip(box, self._box)
    if y1 >= y2 or x1 >= x2:
      raise ValueError(
        f"{what}(left={left}, lower={lower}, right={right}, upper={upper}) has "
        "no area inside the patch"
      )
    return self._at((y1, x1, y2, x2))

  def _shares_area(self, box: api_calls.Box) -> bool:
    """Whether the two have an area in common; boxes that touch have none."""
    y1, x1, y2, x2 = clip(box, self._box)
    return y1 < y2 and x1 < x2


def box_of(function_name: str, patch: Any) -> api_calls.Box:
  """A patch's box.

  Raises:
    TypeError: if it is no patch; names the function that was given it.
  """
  if not isinstance(patch, Patch):
    raise TypeError(
      f"{function_name} takes a patch, not {type(patch).__name__}"
    )
  return patch._box


def clip(box: api_calls.Box, outer: api_calls.Box) -> api_calls.Box:
  """The common part of two boxes; y1 >= y2 or x1 >= x2 if there is none."""
  return (
    max(box[0], outer[0]),
    max(box[1], outer[1]),
    min(box[2], outer[2]),
    min(box[3], outer[3]),
  )


def box_between(left, lower, right, upper) -> api_calls.Box:
  """The box between four borders that a program gave, rounded.

  Raises:
    TypeError, ValueError: if one is no finite number; names it.
  """
  left = _coordinate("left", left)
  lower = _coordinate("lower", lower)
  right = _coordinate("right", right)
  upper = _coordinate("upper", upper)
  return 999 - upper, left, 999 - lower, right


# Borders outside the image are cut; what is farther out is a mistake.
_MOST_COORDINATE = 10**6


def _coordinate(name, value):
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{name} must be a number, not {type(value).__name__}")
  if not -_MOST_COORDINATE < value < _MOST_COORDINATE:  # NaN too.
    raise ValueError(f"{name} must be a number on the scale 0 to 999")
  return round(value)
