"""Judges how far things of the embedded world are, from size and overlap."""

from collections.abc import Sequence

import numpy as np

from data_gen.tools import _regions, _world_pixels, _world_tool, tool

BACKGROUND = 1.0


class Tool(_world_tool.WorldTool):
  """compute_depth() -> 0 (near) to 1 (far) of the thing in the patch's middle.

  A thing that looks smaller is farther; one that hides a part of another is
  nearer than it, whatever their sizes. An empty patch shows the background,
  which is farthest.
  """

  spec = tool.Spec(
    call="compute_depth",
    version="1",
    arguments={},
    result="number",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    things = self._all_things(call)
    depths = depths_of(things, min(self._image(call).shape[:2]))
    y = (call.box[0] + call.box[2]) / 2
    x = (call.box[1] + call.box[3]) / 2
    here = [
      (
        abs(t.box[0] + t.box[2] - 2 * y) + abs(t.box[1] + t.box[3] - 2 * x),
        depth,
      )
      for t, depth in zip(things, depths)
      if _regions.inside(t.box, call.box)
    ]
    return min(here)[1] if here else BACKGROUND


def depths_of(
  things: Sequence[_world_pixels.Thing], image_side_px: int
) -> list[float]:
  """A depth for each thing, such that a hidden thing is farther."""
  depths = [1 - _side_px(t) / image_side_px for t in things]
  for _ in things:  # A chain of overlaps settles within this many rounds.
    changed = False
    for i, near in enumerate(things):
      for j, far in enumerate(things):
        if i != j and _hides(near, far) and depths[i] >= depths[j]:
          depths[j] = depths[i] + 0.01
          changed = True
    if not changed:
      break
  return [round(min(depth, BACKGROUND), 3) for depth in depths]


def _side_px(thing):
  y1, x1, y2, x2 = thing.box_yxyx_px
  return max(y2 - y1, x2 - x1)


def _hides(near, far):
  """Whether `near`'s pixels cover a part of `far`'s box, and not vice versa."""
  y1 = max(near.box_yxyx_px[0], far.box_yxyx_px[0])
  x1 = max(near.box_yxyx_px[1], far.box_yxyx_px[1])
  y2 = min(near.box_yxyx_px[2], far.box_yxyx_px[2])
  x2 = min(near.box_yxyx_px[3], far.box_yxyx_px[3])
  if y2 - y1 < 2 or x2 - x1 < 2:
    return False
  seen = [
    float(
      np.mean(
        t.coverage[
          y1 - t.box_yxyx_px[0] : y2 - t.box_yxyx_px[0],
          x1 - t.box_yxyx_px[1] : x2 - t.box_yxyx_px[1],
        ]
      )
    )
    for t in (near, far)
  ]
  return seen[0] > 0.5 > seen[1]
