"""Applies a family's table of names to arrays, in either direction.

Nothing is read until it is asked for, and then in pieces:

    source = hf.scan(folder)                           # headers only
    found = convert.ours(source, table, shapes, folder)   # names, shapes
    convert.check_finite(found.values(), folder)          # one pass
    params = convert.load(found, shapes)               # into shardings
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from vpd_jax.checkpoint import renamed
from vpd_jax.checkpoint import source as source_lib
from vpd_jax.checkpoint.source import Array, Index
from vpd_jax.models import renames

# (start, stop) along each axis.
Bounds = tuple[tuple[int, int], ...]

in_memory = source_lib.in_memory


def ours(
  source: Mapping[str, Array],
  table: renames.Table,
  expected: Mapping[str, Any],
  what: Any,
  axes: Mapping[str, tuple[str | None, ...]] | None = None,
) -> dict[str, Array]:
  """Their arrays under our names and in our layout.

  Args:
    source: theirs by name, of a whole file or folder.
    table: names, from a family's `params.py`.
    expected: our name -> anything with a shape; more may be there than the
      table has.
    what: the file or folder, for messages.
    axes: our name -> logical axes, if a vocabulary that differs is to be
      called so.

  Returns:
    Our name -> Array of our shape, for every name of the table.

  Raises:
    ValueError: if names, shapes or dtypes differ; lists all, on both sides.
      If an array that must equal another, as a tied head, does not.
  """
  found = renamed.spelled(source, table)
  renamed.check(what, table, found, expected, axes or {})
  for name, original in table.copies.items():
    if name in found:
      _check_equal(name, found[name], original, found[original], what)
  return {
    rename.name: renamed.our_array(
      rename, found, tuple(expected[rename.name].shape)
    )
    for rename in table.renames
  }


def theirs(
  arrays: Mapping[str, Array], table: renames.Table
) -> dict[str, Array]:
  """Our arrays under their names and in their layout.

  Raises:
    ValueError: if `arrays` lacks one of the table; lists all.
  """
  missing = [f"  {r.name}" for r in table.renames if r.name not in arrays]
  if missing:
    raise ValueError(
      f"{len(missing)} arrays are not in the model:\n" + "\n".join(missing)
    )
  makers = collections.defaultdict(list)
  for rename in table.renames:
    for layer, name in enumerate(rename.names()):
      makers[name].append((rename, layer))
  out = {}
  for name, parts in makers.items():
    parts.sort(key=lambda p: p[0].part or (0, 1))
    assert len(parts) == (parts[0][0].part or (0, 1))[1], name
    ours = [arrays[r.name] for r, _ in parts]
    out[table.prefix + name] = renamed.their_array(name, parts, ours)
  return out


def check_finite(arrays: Iterable[Array], what: Any) -> None:
  """Reads arrays once, in pieces.

  The cost is one more pass over the files, about a second per GB from a disk
  cache; without it `load` still finds such a value, when arrays that came
  before are on devices already.

  Raises:
    ValueError: if a value is NaN or infinite; lists all arrays.
  """
  lines = []
  for array in arrays:
    bad = sum(
      source_lib.not_finite(array.read(index)) for index in array.pieces()
    )
    if bad:
      lines.append(f"  {array.where}: {bad} of {np.prod(array.shape)}")
  if lines:
    raise ValueError(
      f"{what} has weights that are NaN or infinite:\n" + "\n".join(lines)
    )


def load(
  arrays: Mapping[str, Array],
  expected: Mapping[str, Any],
  then: Callable[[str, jax.Array], Any] | None = None,
) -> dict[str, Any]:
  """Reads arrays straight into their shardings.

  The host holds the shards of one array at a time, each once however many of
  its devices have it, and reads what they need of the files once.

  Args:
    arrays: our name -> Array, from `ours`.
    expected: our name -> jax.ShapeDtypeStruct with a sharding, or an array;
      dtype and sharding are the target's. Where it has no sharding the array
      goes to the default device.
    then: (our name, the array) -> what is kept of it, before the next is read.

  Raises:
    ValueError: if a value is NaN or infinite.
  """
  out = {}
  for name, array in arrays.items():
    target = expected[name]
    assert array.shape == tuple(target.shape), (name, array.shape)
    sharding = getattr(target, "sharding", None)
    if sharding is None:
      sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    devices = collections.defaultdict(list)
    indices = sharding.addressable_devices_indices_map(array.shape)
    for device, index in indices.items():
      assert index is not None  # A shape that is known is cut.
      devices[_bounds(index, array.shape)].append(device)
    shards = _read_shards(array, list(devices), np.dtype(target.dtype))
    placed = [
      jax.device_put(shards.pop(bounds), having[0])
      for bounds, having in devices.items()
    ]
    placed += [
      jax.device_put(first, device)
      for first, having in zip(list(placed), devices.values(), strict=True)
      for device in having[1:]
    ]
    made = jax.make_array_from_single_device_arrays(
      array.shape, sharding, placed
    )
    del placed
    # Or the next array would be read while this one is still being sent.
    out[name] = jax.block_until_ready(then(name, made) if then else made)
  return out


def _read_shards(
  array: Array, shards: list[Bounds], dtype: np.dtype
) -> dict[Bounds, np.ndarray]:
  """Those parts of an array; what several need is read once."""
  out = {
    b: np.empty([stop - start for start, stop in b], dtype) for b in shards
  }
  box = tuple(
    slice(min(start for start, _ in axis), max(stop for _, stop in axis))
    for axis in zip(*shards, strict=True)
  )
  for piece in array.pieces(box):
    values = source_lib.finite(array, piece)
    for bounds, shard in out.items():
      both = [
        (max(p.start, start), min(p.stop, stop))
        for p, (start, stop) in zip(piece, bounds, strict=True)
      ]
      if all(start < stop for start, stop in both):
        shard[_shift(both, [start for start, _ in bounds])] = values[
          _shift(both, [p.start for p in piece])
        ]
  return out


def _shift(bounds: list[tuple[int, int]], by: list[int]) -> Index:
  return tuple(
    slice(start - n, stop - n)
    for (start, stop), n in zip(bounds, by, strict=True)
  )


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
  return tuple(
    part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
  )


def _check_equal(
  name: str, copy: Array, original: str, array: Array, what: Any
) -> None:
  """ValueError unless one is as the other; says in what they differ."""
  kinds = [f"{x.dtype} {x.shape}" for x in (copy, array)]
  if kinds[0] != kinds[1]:
    why = f", {kinds[0]}, is not of the dtype and shape of"
    raise ValueError(
      f"{what}: {name}{why} {original}, {kinds[1]}, which it must repeat."
    )
  # A NaN is not equal to itself, and would be called a difference.
  check_finite((copy, array), what)
  if not all(
    np.array_equal(copy.read(index), array.read(index))
    for index in array.pieces()
  ):
    raise ValueError(
      f"{what}: {name} is not equal to {original}, as it must be in a model"
      ' that ties them. An untied head needs "tie_word_embeddings": false in'
      " config.json, is_head_tied=False here."
    )
