"""What a vision or knowledge tool is: a declaration and a batched call.

A tool is one file of this folder with a class `Tool` (this protocol). The
config says which file answers which call of the program API:

    config.tools.find = dict(name="world_find")

Tools run on the host, beside the images; programs never see pixels. A tool
fault is an exception; it becomes the run's error "tool_error", never a value.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
  """A tool's declaration.

  Attributes:
    call: the call of the program API that it answers, such as "find".
    version: changes whenever answers may change; part of cache keys.
    arguments: argument name -> type, beyond the image and the box.
    result: type of a value: "boxes", "text", "number" or "bool".
    uses_pixels: whether it looks at the image.
    batch_limit: most calls in one batch.
    timeout_s: longest time for one batch. Neither is kept yet: the host calls
      tools one by one and waits for them.
  """

  call: str
  version: str
  arguments: Mapping[str, type]
  result: str
  uses_pixels: bool
  batch_limit: int = 1
  timeout_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a tool.

  Attributes:
    image: uint8[height, width, 3], the whole image; None for a tool that
      uses no pixels. Read-only, and the same object for calls on one image.
    image_key: content hash of the image, to key what is computed per image.
    box: the patch that the program looks at, y1 x1 y2 x2 on 0..999.
    arguments: as in the spec, plain values.
  """

  image: np.ndarray | None
  image_key: str
  box: tuple[int, int, int, int]
  arguments: Mapping[str, Any]


class Tool(Protocol):
  """A tool; constructed once per worker with its config's keyword arguments."""

  spec: Spec

  def run_batch(self, calls: Sequence[Call]) -> list[Any]:
    """Answers each call; "boxes" are lists of [y1, x1, y2, x2] on 0..999 of
    the whole image, "text" is str, "number" is float, "bool" is bool."""
    ...


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
