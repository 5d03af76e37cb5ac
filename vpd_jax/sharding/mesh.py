"""A named device mesh from the config."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

AXES = ("data", "fsdp", "tensor")


def make(
  sizes: Mapping[str, int],
  # jax.Device is a class, but jax's source makes it look like a variable.
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> jax.sharding.Mesh:
  """Arranges the devices on the axes data, fsdp and tensor.

  Args:
    sizes: axis -> number of devices along it; absent axes have 1, and one
      axis may be -1: all that is left.
    devices: which ones; all, where left out.

  Raises:
    ValueError: for an unknown axis, or sizes that do not multiply to the
      number of devices.
  """
  devices = jax.devices() if devices is None else devices
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise ValueError(f"sharding.mesh has no axes {unknown}; it has {AXES}.")
  shape = {axis: sizes.get(axis, 1) for axis in AXES}
  free = [axis for axis, size in shape.items() if size == -1]
  if len(free) > 1:
    raise ValueError(f"sharding.mesh: only one axis may be -1, not {free}.")
  fixed = math.prod(size for size in shape.values() if size != -1)
  if free and len(devices) % fixed == 0:
    shape[free[0]] = len(devices) // fixed
  if math.prod(shape.values()) != len(devices):
    raise ValueError(
      f"sharding.mesh={dict(sizes)} does not fit {len(devices)} devices: the"
      " sizes must multiply to that number; one of them may be -1."
    )
  grid = np.asarray(devices).reshape(tuple(shape.values()))
  return jax.sharding.Mesh(grid, AXES)
