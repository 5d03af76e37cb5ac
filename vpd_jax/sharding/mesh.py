"""A named device mesh from the config, within and across slices.

    replica    copies of all, across slices: the slowest network
    data       copies of all parameters, with other rows of the batch
    fsdp       other rows, and a share of each parameter
    sequence   the same rows, another share of the image's tokens
    tensor     the same tokens, another share of heads, MLP and vocabulary

Axes that talk more are further down, and so nearer together on the network.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from vpd_jax.sharding import rules

AXES = rules.MESH_AXES
# A slice of TPUs has a network of its own; only these may leave it.
SLICE_AXES = ("replica", "data")
# Elsewhere a "slice" is a host, and hosts have a fast network too.
HOST_AXES = ("replica", "data", "fsdp")


def make(
  sizes: Mapping[str, int], devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Arranges the devices on the axes of AXES.

  Args:
    sizes: axis -> number of devices along it; absent axes have 1, and one
      axis may be -1: all that is left.
    devices: which ones; all, where left out.

  Raises:
    ValueError: for an unknown axis, sizes that do not multiply to the number
      of devices, or slices that no axis spans; names the axis, and sizes that
      fit.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = fit(sizes, len(devices))
  is_tpu = devices[0].platform == "tpu"
  slice_sizes = _slice_sizes(devices)
  if len(slice_sizes) == 1 and not is_tpu:
    grid = np.asarray(devices, object).reshape(tuple(shape.values()))
    return jax.sharding.Mesh(grid, AXES)
  across = _across_slices(shape, slice_sizes, is_tpu)
  within = [shape[axis] // across[axis] for axis in AXES]
  arrange = functools.partial(mesh_utils.create_device_mesh, within, devices)
  if len(slice_sizes) > 1:
    arrange = functools.partial(
      mesh_utils.create_hybrid_device_mesh,
      within,
      list(across.values()),
      devices,
    )
  try:
    grid = arrange()
  except NotImplementedError:
    # No axis of the mesh is made of whole axes of the machine's torus.
    grid = arrange(allow_split_physical_axes=True)
  return jax.sharding.Mesh(grid, AXES)


def fit(sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
  """Size of every axis of AXES, so that they multiply to `num_devices`.

  Raises:
    ValueError: as `make`.
  """
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise ValueError(f"sharding.mesh has no axes {unknown}; it has {AXES}.")
  shape = {axis: sizes.get(axis, 1) for axis in AXES}
  for axis, size in shape.items():
    if size != -1 and size < 1:
      raise ValueError(f"sharding.mesh.{axis}={size}: at least 1, or -1.")
  free = [axis for axis, size in shape.items() if size == -1]
  if len(free) > 1:
    raise ValueError(f"sharding.mesh: only one axis may be -1, not {free}.")
  given = {a: n for a, n in shape.items() if n > 1}
  left = num_devices
  for axis, size in given.items():
    if left % size:
      others = {a: n for a, n in given.items() if a != axis}
      room = num_devices // math.prod(others.values())
      is_alone = num_devices % math.prod(others.values()) or not others
      raise ValueError(
        f"sharding.mesh.{axis}={size} does not fit {num_devices} devices"
        + ("" if is_alone else f" with {_text(others)}")
        + f": try {_choices(num_devices if is_alone else room)}."
      )
    left //= size
  if free:
    shape[free[0]] = left
  elif left > 1:
    axis = max(given, key=lambda a: given[a]) if given else "data"
    raise ValueError(
      f"sharding.mesh={dict(sizes)} does not fit {num_devices} devices: it uses"
      f" {num_devices // left}. Try sharding.mesh.{axis}={shape[axis] * left},"
      " or -1 for one axis: all that are left."
    )
  return shape


def divisors(number: int) -> list[int]:
  """All of them, from 1 on."""
  return [n for n in range(1, number + 1) if number % n == 0]


def _slice_sizes(devices: Sequence[Any]) -> list[int]:
  """Devices in each slice; one slice where they do not know of any."""
  numbers = [getattr(device, "slice_index", 0) or 0 for device in devices]
  return [numbers.count(number) for number in sorted(set(numbers))]


def _across_slices(
  shape: Mapping[str, int], slice_sizes: Sequence[int], is_tpu: bool
) -> dict[str, int]:
  """How many slices each axis spans; the first axes as many as they can."""
  if len(set(slice_sizes)) > 1:
    raise ValueError(
      f"the slices have {list(slice_sizes)} devices; a mesh needs equal ones."
    )
  allowed = SLICE_AXES if is_tpu else HOST_AXES
  left = len(slice_sizes)
  across: dict[str, int] = dict.fromkeys(AXES, 1)
  for axis in allowed:
    across[axis] = math.gcd(shape[axis], left)
    left //= across[axis]
  if left > 1:
    raise ValueError(
      f"{len(slice_sizes)} slices of {slice_sizes[0]} devices, but of"
      f" sharding.mesh={ {a: n for a, n in shape.items() if n > 1} } only"
      f" {' x '.join(allowed)} may cross slices: their sizes must hold"
      f" {len(slice_sizes)}. Try sharding.mesh.replica={len(slice_sizes)}."
    )
  return across


def _text(sizes: Mapping[str, int]) -> str:
  return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


def _choices(number: int) -> str:
  """ "1, 2, 4 or 8": what divides a number; the largest, of many."""
  found = [str(n) for n in divisors(number)][-8:]
  return " or ".join([", ".join(found[:-1]), found[-1]][len(found) == 1 :])
