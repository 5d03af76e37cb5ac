"""Whole models in and out: what `vpd_jax.convert` does."""

import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax.checkpoint import (
  adapters,
  big_vision,
  convert,
  families,
  hf,
  model_folder,
  pictures,
  reference,
  resolution,
)
from vpd_jax.checkpoint.source import Array

# Of an export, beside the parts: arrays that no foreign model has.
REST = "rest"


def kind(where: str) -> tuple[str, str]:
  """("hf" or "big_vision" or "ours", path) of a flag's value.

  Raises:
    ValueError: for another word before a colon.
  """
  word, colon, path = where.partition(":")
  if not colon or os.path.isdir(where):
    return "ours", where
  if word not in ("hf", "big_vision"):
    raise ValueError(f"{where}: {word!r} is not a format; hf, big_vision are.")
  return word, path


def bring_in(
  parts: Mapping[str | None, str],
  to: str | os.PathLike,
  dtype: np.dtype,
  *,
  projection: str | None = None,
  changes: Mapping[str, Any] = types.MappingProxyType({}),
  image_px: int | None = None,
  is_checked: bool = False,
) -> list[str]:
  """Writes our folder from foreign models.

  Args:
    parts: part of the family -> hf:DIR or big_vision:FILE; None: whatever
      part it is.
    to: folder to make.
    dtype: to write in.
    projection: folder of ours that has what no foreign model does; None: it
      is drawn anew.
    changes: more keyword arguments of our class, that no foreign file decides.
    image_px: side of the images that the result is for; None: as theirs.
    is_checked: compare with transformers.

  Returns:
    Lines of a report.

  Raises:
    FileNotFoundError: if something is not there.
    FileExistsError: if `to` holds something.
    ValueError: if parts do not make a model; lists all names that differ.
      If images of that size do not fit. If the check fails.
  """
  read = [_Foreign(where, part) for part, where in parts.items()]
  family, cls = _what_they_make(read)
  options: dict[str, Any] = {}
  for one in read:
    options |= one.options
  decided = [name for name in changes if options.get(name) is not None]
  if decided:
    raise ValueError(
      f"options {decided} are decided by {', '.join(parts.values())}."
    )
  options |= changes
  if image_px is not None:
    resolution.check(options, image_px)
  shapes = families.Shapes(family, options, cls)
  arrays: dict[str, Array] = {}
  for one in read:
    table = one.table(options)
    arrays |= convert.ours(
      one.source, table, shapes.named, one.where, shapes.axes
    )
  missing = [name for name in shapes.named if name not in arrays]
  fresh = getattr(families.module(family, "params"), "FRESH", ())
  assert set(missing) <= set(fresh), missing
  report = [f"{family}: {len(arrays)} arrays of {', '.join(parts.values())}"]
  report += [note for one in read for note in one.notes]
  if projection is None:
    drawn = shapes.fresh(missing) if missing else {}
    arrays |= {n: convert.in_memory(x, n) for n, x in drawn.items()}
    report += [f"drawn anew: {name}" for name in missing]
  else:
    saved = model_folder.read(projection)
    own = {n: x for n, x in saved.arrays.items() if n in missing}
    table = model_folder.identity(dict.fromkeys(missing))
    arrays |= convert.ours(own, table, shapes.named, projection, shapes.axes)
    report.append(f"from {projection}: {', '.join(missing)}")
  arrays = {name: arrays[name] for name in shapes.named}
  image: dict[str, Any] = {}
  for one in read:
    if one.format == "hf" and "image_size" in one.options:
      image, lines = pictures.read(one.path, family, one.options, image_px)
      report += lines
  if image_px is not None:
    # Each resizes in its own way: big_vision with scipy's zoom of order 1.
    is_theirs = any(one.format == "big_vision" for one in read)
    method = "bilinear_corners" if is_theirs else "bicubic"
    report.append(_resized(options, image_px, method))
    options, arrays = resolution.change(
      family, options, arrays, image_px, method
    )
  model_folder.write(to, family, options, arrays, dtype, cls, image=image)
  report.append(f"wrote {to}: {_size(to)}")
  if is_checked:
    folders = {r.part: r.path for r in read if r.format == "hf"}
    report += reference.compare(to, folders)
    report += [f"not compared: {r.where}" for r in read if r.format != "hf"]
  return report


def resize(
  where: str | os.PathLike,
  to: str | os.PathLike,
  dtype: np.dtype,
  image_px: int,
) -> list[str]:
  """Writes a folder of ours for images of another size, from one of ours.

  Args:
    where: our folder.
    to: folder to make.
    dtype: to write in.
    image_px: side of the images.

  Returns:
    Lines of a report.

  Raises:
    FileNotFoundError, FileExistsError, ValueError: as `bring_in`.
  """
  saved, _, arrays = _read(where)
  report = [_resized(saved.options, image_px, "bicubic")]
  options, arrays = resolution.change(
    saved.family, saved.options, arrays, image_px
  )
  image = {n: x for n, x in saved.image.items() if n != "resize_px"}
  model_folder.write(
    to, saved.family, options, arrays, dtype, saved.cls, image=image
  )
  return [*report, f"wrote {to}: {_size(to)}"]


def merge(
  where: str | os.PathLike,
  adapter: str | os.PathLike,
  to: str | os.PathLike,
  dtype: np.dtype,
) -> list[str]:
  """Writes a folder of ours: one of ours with peft's adapters merged in.

  Args:
    where: our folder.
    adapter: folder of peft; or of one for each part, named after them.
    to: folder to make.
    dtype: to write in.

  Returns:
    Lines of a report.

  Raises:
    FileNotFoundError, FileExistsError, ValueError: as `bring_in`.
  """
  saved, _, arrays = _read(where)
  arrays, report = adapters.merge(adapter, saved, arrays)
  model_folder.write(
    to, saved.family, saved.options, arrays, dtype, saved.cls, image=saved.image
  )
  return [*report, f"wrote {to}: {_size(to)}"]


def export(
  where: str | os.PathLike,
  to: str | os.PathLike,
  dtype: np.dtype,
  *,
  is_checked: bool = False,
) -> list[str]:
  """Writes folders that transformers loads, from our folder.

  A family of one part is written to `to`; each of several to a folder there
  named after it, and what belongs to none to our own folder "rest".

  Args:
    where: our folder.
    to: folder to make.
    dtype: to write in.
    is_checked: compare with transformers.

  Returns:
    Lines of a report.

  Raises:
    FileNotFoundError, FileExistsError, ValueError: as `bring_in`.
  """
  saved, shapes, arrays = _read(where)
  to = pathlib.Path(to)
  if to.exists() and any(to.iterdir()):
    raise FileExistsError(f"{to} is not empty; name another folder.")
  names = families.parts(saved.family, saved.cls)
  folders = {p: to if len(names) == 1 else to / p for p in names}
  rest, jobs = dict(arrays), []
  for part, folder in folders.items():
    table = families.module(saved.family, "params").table(saved.options, part)
    config = families.module(saved.family, "hf_config").config(
      saved.options, part, shapes.rows()
    )
    if "image_size" in pictures.tower(config):
      # What it is given, not what patches cover.
      inner = pictures.tower(config)
      inner["image_size"] = saved.image.get("resize_px", inner["image_size"])
    for rename in table.renames:
      rest.pop(rename.name)
    jobs.append((folder, config, convert.theirs(arrays, table)))
  for folder, config, foreign in jobs:
    named = {"torch_dtype": dtype.name}
    hf.write(folder, config | named, foreign, dtype=dtype)
  report = [f"wrote {folder}: {_size(folder)}" for folder in folders.values()]
  if rest:
    model_folder.write(
      to / REST,
      saved.family,
      saved.options,
      rest,
      dtype,
      saved.cls,
      image=saved.image,
    )
    report.append(f"wrote {to / REST}, ours: {', '.join(rest)}")
  if is_checked:
    report += reference.compare(where, folders)
  return report


class _Foreign:
  """One foreign model: its part, its options and its arrays.

  Attributes:
    where, format, path: as given.
    family, part: what it is of.
    options: keyword arguments of Model that it decides.
    source: its arrays.
    notes: lines for the report.
  """

  def __init__(self, where: str, part: str | None):
    self.where, self.notes = where, []
    self.format, self.path = kind(where)
    if self.format == "ours":
      raise ValueError(f"{where} is of no other project; hf:DIR is one.")
    if self.format == "hf":
      config = hf.read_config(self.path)
      self.family, self.part = families.of_config(config)
      self.options = families.options(self.family, self.part, config)
      self.source = hf.scan(self.path)
      self._copy(config)
    else:
      self.source = big_vision.scan(self.path)
      self.family, self.part, self.options = _of_big_vision(self)
    if part not in (None, self.part):
      raise ValueError(f"--{part}={where} is the {self.part} of {self.family}.")

  def _copy(self, config: Mapping[str, Any]) -> None:
    """Puts in what transformers takes from another array of the file."""
    copies = getattr(families.module(self.family, "hf_config"), "copies", None)
    for name, original in (copies(config) if copies else {}).items():
      if name not in self.source and original in self.source:
        self.source[name] = self.source[original]
        self.notes.append(f"{name} is not in {self.where}: from {original}")

  def table(self, options: Mapping[str, Any]):
    """Names of the part, with the options of the whole model."""
    params = families.module(self.family, "params")
    make = params.table if self.format == "hf" else params.big_vision
    return make(options, self.part)


def _what_they_make(read: list[_Foreign]) -> tuple[str, str]:
  """(family, class) that parts make together; ValueError if nothing."""
  family = read[0].family
  cls = families.class_of(family, read[0].part)
  needed = families.parts(family, cls)
  given = sorted(one.part for one in read)
  if {one.family for one in read} != {family} or given != sorted(needed):
    found = ", ".join(f"{r.where}: {r.part} of {r.family}" for r in read)
    flags = "as --image= and --text=" if len(needed) > 1 else "as --from="
    raise ValueError(
      f"{found}; a {family} needs each of {needed} once, {flags}."
    )
  return family, cls


def _read(
  where: str | os.PathLike,
) -> tuple[model_folder.Saved, families.Shapes, dict[str, Array]]:
  """A folder of ours, what its options make, and its arrays, compared."""
  saved = model_folder.read(where)
  if saved.family not in families.names():
    raise ValueError(
      f"transformers has no counterpart of {saved.family}; it has of"
      f" {families.names()}."
    )
  shapes = families.Shapes(saved.family, saved.options, saved.cls)
  table = model_folder.identity(shapes.named)
  arrays = convert.ours(
    saved.arrays, table, shapes.named, saved.directory, shapes.axes
  )
  return saved, shapes, arrays


def _resized(options: Mapping[str, Any], image_px: int, method: str) -> str:
  before = options["image_size"]
  return f"positions: of {before} pixels, for {image_px} now, {method}"


def _of_big_vision(file: _Foreign) -> tuple[str, str, dict[str, Any]]:
  shapes = {name: array.shape for name, array in file.source.items()}
  reasons = []
  for family in families.names():
    params = families.module(family, "params")
    if not hasattr(params, "big_vision_options"):
      continue
    try:
      options = params.big_vision_options(shapes)
    except ValueError as e:
      reasons.append(f"  {family}: {e}")
      continue
    # Whole models, but for PaLI's towers.
    return (
      family,
      "image" if "image" in families.parts(family) else "model",
      options,
    )
  raise ValueError(
    f"{file.where} is of no family that reads big_vision:\n"
    + "\n".join(reasons)
  )


def _size(folder: str | os.PathLike) -> str:
  files = pathlib.Path(folder).glob("*.safetensors")
  return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"
