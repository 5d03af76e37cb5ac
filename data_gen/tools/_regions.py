"""Patches of an image in pixels and on the grid, for tools that read pixels."""

import numpy as np

from data_gen.tools import tool

GridBox = tuple[int, int, int, int]


def crop(image: np.ndarray, box: GridBox) -> np.ndarray:
  """The pixels of a grid box, at least one pixel in each direction.

  Args:
    image: uint8[height, width, 3].
    box: y1 x1 y2 x2 on 0..999.

  Returns:
    uint8[h, w, 3], a view.
  """
  y1, x1, y2, x2 = to_px(image, box)
  return image[y1:y2, x1:x2]


def to_px(image: np.ndarray, box: GridBox) -> tuple[int, int, int, int]:
  """The pixel rows and columns y1 x1 y2 x2 of a grid box, ends exclusive."""
  height, width = image.shape[:2]
  y1 = min(height - 1, round(tool.to_pixel(box[0], height)))
  x1 = min(width - 1, round(tool.to_pixel(box[1], width)))
  y2 = min(height, max(y1 + 1, round(tool.to_pixel(box[2], height))))
  x2 = min(width, max(x1 + 1, round(tool.to_pixel(box[3], width))))
  return y1, x1, y2, x2


def to_grid(
  image_shape: tuple[int, ...], box_yxyx_px: tuple[float, ...]
) -> list[int]:
  """A pixel box, ends exclusive, as y1 x1 y2 x2 on 0..999; never empty."""
  height, width = image_shape[:2]
  y1 = min(998, tool.to_grid(box_yxyx_px[0], height))
  x1 = min(998, tool.to_grid(box_yxyx_px[1], width))
  y2 = max(y1 + 1, tool.to_grid(box_yxyx_px[2], height))
  x2 = max(x1 + 1, tool.to_grid(box_yxyx_px[3], width))
  return [y1, x1, y2, x2]


def inside(box: list[int], patch: GridBox) -> bool:
  """Whether the centre of `box` lies in `patch`; both on the grid."""
  y = (box[0] + box[2]) / 2
  x = (box[1] + box[3]) / 2
  return patch[0] <= y <= patch[2] and patch[1] <= x <= patch[3]


def in_reading_order(boxes: list[list[int]]) -> list[list[int]]:
  """Boxes row by row, each from the left; see `tool.reading_order`."""
  return [boxes[i] for i in tool.reading_order(boxes)]
