"""One array of ours out of theirs, and back; and do all names fit?

`convert.py` does this for whole tables. Nothing here reads a value until what
it returns is read.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax import spelling
from vpd_jax.checkpoint import source as source_lib
from vpd_jax.checkpoint.source import Array, Index
from vpd_jax.models import renames

# Only so many names get a guess at what was meant: it takes a while each.
HINTS = 20


def our_array(
  rename: renames.Rename, found: Mapping[str, Array], shape: tuple[int, ...]
) -> Array:
  """An array of ours, of that shape, out of theirs by name."""
  sources = [found[name] for name in rename.names()]
  one = rename.our_layer(shape)
  row_axis, row_step = rename.layout.rows(one) if one else (0, 1)
  where = f"{sources[0].where}, our {rename.name}"
  dtype = sources[0].dtype

  def layer_reader(layer: int):
    theirs = sources[0 if rename.is_stacked_there else layer]

    def read(index: Index) -> np.ndarray:
      if rename.part is not None:
        rows = rename.layout.their_shape(one)[0] * rename.part[0]
        first = slice(index[0].start + rows, index[0].stop + rows)
        index = (first, *index[1:])
      if not rename.is_stacked_there:
        return theirs.read(index)
      axis = rename.layers_axis
      index = (*index[:axis], slice(layer, layer + 1), *index[axis:])
      return theirs.read(index).squeeze(axis)

    return read

  def read(index: Index) -> np.ndarray:
    if rename.layers is None:
      return rename.layout.read(layer_reader(0), one, index)
    layers = range(index[0].start, index[0].stop)
    return np.stack(
      [rename.layout.read(layer_reader(n), one, index[1:]) for n in layers]
    )

  if rename.layers is None:
    return Array(where, shape, dtype, read, ((row_axis, row_step),))
  cuts = ((0, 1), (1 + row_axis, row_step))
  return Array(where, shape, dtype, read, cuts)


def their_array(
  name: str, parts: list[tuple[renames.Rename, int]], ours: list[Array]
) -> Array:
  """An array of theirs.

  Args:
    name: theirs.
    parts: (our names, layer) of what it joins; one where it joins nothing.
    ours: the array of each part.
  """
  first = parts[0][0]

  def layer(rename: renames.Rename, array: Array, number: int) -> np.ndarray:
    if rename.layers is None:
      return rename.layout.to_theirs(array.whole())
    index = (slice(number, number + 1), *source_lib.full(array.shape[1:]))
    return rename.layout.to_theirs(array.read(index)[0])

  def read(index: Index) -> np.ndarray:
    joined = []
    for (rename, number), array in zip(parts, ours, strict=True):
      if rename.is_stacked_there:
        layers = [layer(rename, array, n) for n in range(array.shape[0])]
        joined.append(np.stack(layers, rename.layers_axis))
      else:
        joined.append(layer(rename, array, number))
    axis = 1 if first.is_stacked_there else 0
    whole = joined[0] if len(joined) == 1 else np.concatenate(joined, axis)
    return whole[index]

  shape = first.their_shape(ours[0].shape)
  return Array(name, shape, ours[0].dtype, read, cuts=())


def spelled(
  source: Mapping[str, Array], table: renames.Table
) -> dict[str, Array]:
  """A source with names as the table has them.

  Raises:
    ValueError: if two become one.
  """
  has_prefix = any(name.startswith(table.prefix) for name in source)
  out = {}
  for name, array in source.items():
    spelled = name.removeprefix(table.prefix) if has_prefix else name
    for pattern, replacement in table.spellings:
      spelled = re.sub(pattern, replacement, spelled)
    if spelled in out:
      raise ValueError(
        f"{name} and {out[spelled].where} are both named {spelled} here; a"
        " file of one version of transformers has only one of them."
      )
    out[spelled] = array
  return out


def check(
  what: Any,
  table: renames.Table,
  found: Mapping[str, Array],
  expected: Mapping[str, Any],
  axes: Mapping[str, tuple[str | None, ...]],
) -> None:
  """Compares names, shapes and dtypes; see `convert.ours`.

  Args:
    what: the file or folder, for messages.
    table: names that are needed.
    found: their name, as `spelled` -> Array.
    expected: our name -> anything with a shape.
    axes: our name -> logical axes.

  Raises:
    ValueError: if something differs; lists all.
  """
  needed = {name: r for r in table.renames for name in r.names()}
  missing = [name for name in needed if name not in found]
  unused = [
    name
    for name in found
    if name not in needed
    and name not in table.copies
    and not any(re.fullmatch(pattern, name) for pattern in table.ignored)
  ]
  lines = []
  for name in missing:
    hint = spelling.hint(name, unused) if len(lines) < HINTS else ""
    ours = needed[name].name
    shape = needed[name].their_shape(tuple(expected[ours].shape))
    lines.append(f"  missing {name} {shape}, our {ours}.{hint}")
  for name in unused:
    hint = spelling.hint(name, missing) if len(lines) < HINTS else ""
    lines.append(f"  unused {name} {found[name].shape}.{hint}")
  for name, rename in needed.items():
    if name in missing:
      continue
    array = found[name]
    shape = rename.their_shape(tuple(expected[rename.name].shape))
    if array.shape != shape:
      is_vocab = "vocab" in axes.get(rename.name, ())
      lines.append(
        f"  {name} has shape {array.shape}, expected {shape}, our"
        f" {rename.name}."
        + (" The vocabularies differ in size." if is_vocab else "")
      )
    if isinstance(array.dtype, str):
      lines.append(f"  {name} has dtype {array.dtype}, expected a float.")
  if lines:
    raise ValueError(
      f"{what} is of another model: {len(lines)} arrays differ. Use the"
      " size that its config.json describes.\n" + "\n".join(lines)
    )
