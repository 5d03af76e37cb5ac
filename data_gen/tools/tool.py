"""What a vision or knowledge tool is: a declaration and a batched call.

A tool is one file with a class `Tool` (this protocol). The config says which
file answers which call of the program API:

    config.tools.find = dict(name="world_find")
    config.tools.ocr = dict(name="my_package.my_ocr", languages=["en"])

A name without a dot is a file of this folder; one with a dot is a module of
your own, by its full name. The other keys are the tool's keyword arguments;
they must be plain values (numbers, text, lists, dicts). `process="gpu0"` is
no argument: it gives the tool a process of its own, shared with the tools
that name the same one (see `server`).

Tools run on the host, beside the images; programs never see pixels. A tool
fault is an exception; it becomes the run's error "tool_error", never a value.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
  """A tool's declaration.

  Attributes:
    call: the call of the program API that it answers, such as "find".
    version: changes whenever answers may change; part of cache keys.
    arguments: argument name -> type, beyond the image and the box.
    result: type of a value; see `Tool.run_batch`.
    uses_pixels: whether it looks at the image. One that does not is given
      neither the image nor its key.
    batch_limit: most calls in one batch, 1 or more.
    timeout_s: longest time for one batch, decoding and `prepare` included. A
      process that takes longer is ended.
    weights: hash of the weights, where there are any; part of cache keys.
  """

  call: str
  version: str
  arguments: Mapping[str, type]
  result: str
  uses_pixels: bool
  batch_limit: int = 1
  timeout_s: float = 60.0
  weights: str = ""


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a tool.

  Attributes:
    image: uint8[height, width, 3], the whole image; None for a tool that
      uses no pixels. Read-only, and the same object for calls on one image.
    image_key: content hash of the image, to key what is computed per image.
    box: the patch that the program looks at, y1 x1 y2 x2 on 0..999.
    arguments: as in the spec, plain values.
    prepared: what the tool's `prepare` returned for the image; None for a tool
      without one.
  """

  image: np.ndarray | None
  image_key: str
  box: tuple[int, int, int, int]
  arguments: Mapping[str, Any]
  prepared: Any = None


class Tool(Protocol):
  """A tool; constructed once per process with its config's keyword arguments.

  It may have a method `prepare(self, image: np.ndarray) -> Any` for what is
  computed from the whole image, such as a depth map. It is called once an
  image, and its result, not to be written to, is given with each call.
  """

  spec: Spec

  def run_batch(self, calls: Sequence[Call]) -> list[Any]:
    """Answers each call, whatever the others are.

    Returns:
      A value a call, in order: "boxes" are lists of [y1, x1, y2, x2] on 0..999
      of the whole image, "text" is str, "number" is float, "numbers" is a list
      of float, one for each item of the argument that is a list, "bool" is
      bool.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Image:
  """An image as it is sent to a tool's process.

  Attributes:
    key: sha256 of `encoded`, in hex.
    encoded: a JPEG or PNG file's bytes.
  """

  key: str
  encoded: bytes


@dataclasses.dataclass(frozen=True)
class Answer:
  """What became of a tool call.

  Attributes:
    kind: "value", "refused" for arguments that a program got wrong, or
      "fault" for what is not the program's doing.
    value: plain; shared by equal calls, so not to be changed.
    error_class: of a fault. "tool_missing": none is configured; "tool_error":
      it raised, or returned what it did not declare; "tool_timeout" and
      "tool_died": alone with this call too; "bad_image": cannot be decoded,
      or is not there.
    message: one line; "" for a value.
  """

  kind: Literal["value", "refused", "fault"]
  value: Any = None
  error_class: str = ""
  message: str = ""


def to_grid(value_px: float, side_px: int) -> int:
  """A pixel coordinate on the 0..999 grid of a side of `side_px` pixels."""
  return min(999, max(0, round(value_px * 999 / side_px)))


def to_pixel(value: int, side_px: int) -> float:
  """The inverse of `to_grid`, in pixels, not rounded."""
  return value * side_px / 999


def reading_order(boxes: Sequence[Sequence[float]]) -> list[int]:
  """Indices of boxes as a page is read: row by row, each from the left.

  A row is what begins above the bottom of its highest box, so that boxes that
  stand a little higher or lower than their neighbour still share its row.

  Args:
    boxes: y1, x1, y2, x2 each, in any unit, origin at the top left.
  """
  waiting = sorted(range(len(boxes)), key=lambda i: tuple(boxes[i]))
  order: list[int] = []
  while waiting:
    bottom = boxes[waiting[0]][2]
    row = [i for i in waiting if boxes[i][0] < bottom]
    order += sorted(row, key=lambda i: (boxes[i][1], boxes[i][0]))
    waiting = [i for i in waiting if boxes[i][0] >= bottom]
  return order
