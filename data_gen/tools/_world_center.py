"""Which things of a patch of the embedded world are nearest to its middle."""

from collections.abc import Iterable

from data_gen.tools import _regions, _world_pixels


def most_central_first(
  things: Iterable[_world_pixels.Thing], patch: _regions.GridBox
) -> list[_world_pixels.Thing]:
  """The things by how near their centres are to the patch's centre."""

  def squared_distance(thing):
    y = (thing.box[0] + thing.box[2] - patch[0] - patch[2]) / 2
    x = (thing.box[1] + thing.box[3] - patch[1] - patch[3]) / 2
    return y * y + x * x

  return sorted(things, key=squared_distance)
