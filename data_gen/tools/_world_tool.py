"""What the tools that read the embedded world's pixels have in common."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_gen.tools import _regions, _world_pixels, tool


class WorldTool(abc.ABC):
  """Answers each call from the things that the whole picture shows.

  Args:
    colors, kinds: names of what may occur.

  Raises:
    ValueError: if a name is unknown; lists the known ones.
  """

  spec: tool.Spec

  def __init__(
    self,
    *,
    colors: Sequence[str] = _world_pixels.USUAL_COLORS,
    kinds: Sequence[str] = _world_pixels.USUAL_KINDS,
  ):
    self._vocabulary = _world_pixels.Vocabulary(tuple(colors), tuple(kinds))

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  @abc.abstractmethod
  def _run(self, call: tool.Call) -> Any:
    """The answer to one call."""

  def _image(self, call: tool.Call) -> np.ndarray:
    """The whole picture; the host gives one to each tool that uses pixels."""
    assert call.image is not None
    return call.image

  def _all_things(self, call: tool.Call) -> tuple[_world_pixels.Thing, ...]:
    """The things of the whole picture, in reading order."""
    return _world_pixels.things_of(self._image(call), self._vocabulary)

  def _things(self, call: tool.Call) -> list[_world_pixels.Thing]:
    """Those whose centre is in the call's patch."""
    return [
      thing
      for thing in self._all_things(call)
      if _regions.inside(thing.box, call.box)
    ]
