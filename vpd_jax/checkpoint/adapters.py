"""Low-rank updates of whole models, as adapters of each of their parts.

transformers has a PaLI as two models, so peft has two adapters of it. What
one folder holds is `peft.py`'s; here are several, and merging:

    DIR/adapter_config.json         of a family of one part
    DIR/text/adapter_config.json    and DIR/image/..., of a PaLI
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax.checkpoint import families, model_folder, peft, source
from vpd_jax.checkpoint.source import Array, Index
from vpd_jax.models import lora


def write(
  directory: str | os.PathLike,
  family: str,
  options: Mapping[str, Any],
  updates: Mapping[str, Array],
  *,
  alpha: float,
  dropout: float = 0.0,
) -> list[pathlib.Path]:
  """Writes the adapters of a model's updates, for peft and transformers 5.

  Args:
    directory: must not exist, or be empty.
    family: a folder of `vpd_jax.models`.
    options: keyword arguments of its Model.
    updates: our name -> Array of every array of the updates, and no others.
    alpha, dropout: see `lora.add`.

  Returns:
    The folders: the directory, or one there for each part with updates.

  Raises:
    FileExistsError: if the directory holds something.
    ValueError: if a projection has no counterpart in transformers; lists all.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and any(directory.iterdir()):
    raise FileExistsError(f"{directory} is not empty; name another folder.")
  names = families.parts(family)
  rest, jobs, reasons = dict(updates), [], []
  for part in names:
    try:
      table = families.module(family, "params").table(options, part)
    except ValueError as e:
      reasons.append(f"  {e}")  # An image tower that nothing adapts may be so.
      continue
    kernels = {rename.name for rename in table.renames}
    mine = {
      name: rest.pop(name)
      for name in [*rest]
      if f"{name.rpartition('/lora/')[0]}/kernel" in kernels
    }
    if mine:
      folder = directory if len(names) == 1 else directory / part
      jobs.append((folder, mine, table))
  if rest:
    raise ValueError(
      f"{len(rest)} arrays of updates have no counterpart in transformers:\n"
      + "\n".join([*(f"  {name}" for name in rest), *reasons])
    )
  for folder, mine, table in jobs:
    peft.write(folder, mine, table, alpha=alpha, dropout=dropout)
  return [folder for folder, _, _ in jobs]


def merge(
  directory: str | os.PathLike,
  saved: model_folder.Saved,
  arrays: Mapping[str, Array],
) -> tuple[dict[str, Array], list[str]]:
  """A model's arrays with adapters of peft folded into them.

  Args:
    directory: as `write` makes it; or one adapter, of whichever part it is.
    saved: our folder of the model.
    arrays: all of its arrays by our names.

  Returns:
    (arrays, lines of a report). Those that changed are float32; they are
    computed when they are read, a piece at a time.

  Raises:
    FileNotFoundError: if there is no adapter.
    ValueError: if it is not plain LoRA, or of another model; lists all.
  """
  directory, out, report = pathlib.Path(directory), dict(arrays), []
  table_of = families.module(saved.family, "params").table
  tables = {}
  for part in families.parts(saved.family, saved.cls):
    tables[part] = table_of(saved.options, part)
  folders = {
    part: directory / part
    for part in tables
    if (directory / part / peft.CONFIG).is_file()
  }
  if not folders:
    if not (directory / peft.CONFIG).is_file():
      expected = " or ".join([".", *tables] if len(tables) > 1 else ["."])
      raise FileNotFoundError(
        f"no {peft.CONFIG} in {directory} ({expected}); expected peft's folder."
      )
    fitting = [p for p, t in tables.items() if peft.fits(directory, t)]
    # One that fits none is read as of the first, which lists its names.
    folders = {(fitting or [*tables])[0]: directory}
  for part, folder in folders.items():
    adapter = peft.read(folder, tables[part], arrays)
    scale = adapter.options["alpha"] / adapter.options["rank"]
    paths = {name.rpartition("/lora/")[0] for name in adapter.arrays}
    for path in paths:
      a, b = (adapter.arrays[f"{path}/lora/{end}"] for end in ("a", "b"))
      out[f"{path}/kernel"] = _sum(out[f"{path}/kernel"], a, b, scale)
    report.append(f"merged {folder}: {len(paths)} projections of {part}")
  return out, report


def of_model(params: Mapping[str, Any]) -> dict[str, Array]:
  """The updates among named arrays, to be read in pieces."""
  return {
    name: source.in_memory(array, name)
    for name, array in params.items()
    if lora.is_update(name)
  }


def _sum(kernel: Array, a: Array, b: Array, scale: float) -> Array:
  """kernel + scale x A B, float32[..., I, O]."""

  def read(index: Index) -> np.ndarray:
    *stack, rows, columns = index
    rank = slice(0, a.shape[-1])
    low = a.read((*stack, rows, rank)).astype(np.float32)
    high = b.read((*stack, rank, columns)).astype(np.float32)
    product = np.float32(scale) * (low @ high)
    return kernel.read(index).astype(np.float32) + product

  dtype = np.dtype(np.float32)
  return Array(kernel.where, kernel.shape, dtype, read, kernel.cuts)
