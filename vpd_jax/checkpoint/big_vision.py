"""Reads weights as google-research/big_vision saves them: one .npz, a/b/c keys.

    found = big_vision.scan("siglip.npz")
    arrays = convert.ours(found, params.big_vision(options, "image"), ...)

Members that are not compressed, as big_vision writes them, are read in pieces
at their place in the file, once their checksum was found right; a compressed
one is held whole while it is used.

Source of the names and of bfloat16 as two raw bytes: big_vision/utils.py.
"""

import dataclasses
import functools
import os
import pathlib
import re
import struct
import zipfile

import ml_dtypes
import numpy as np

from vpd_jax.checkpoint import source
from vpd_jax.checkpoint.source import Array, Index

_LOCAL_HEADER = 30  # Bytes of a zip's member before its name.


def scan(path: str | os.PathLike) -> dict[str, Array]:
  """The parameters of a file by name, without "params/". Reads headers only.

  Blocks that were scanned, "encoderblock/..." [L, ...], appear as those that
  were not, "encoderblock_0/..." and so on.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is cut off or damaged, or no .npz.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no {path}; expected an .npz of big_vision.")
  try:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
      infos = archive.infolist()
      cached = functools.lru_cache(maxsize=1)(_read_member)
      arrays = [_member(path, file, archive, info, cached) for info in infos]
  except (zipfile.BadZipFile, ValueError, EOFError, struct.error) as e:
    raise ValueError(
      f"{path} ({path.stat().st_size} bytes) is cut off or no .npz: {e}. Fetch"
      " it again."
    ) from e
  names = [info.filename.removesuffix(".npy") for info in infos]
  found = dict(zip(names, arrays, strict=True))
  if any(name.startswith("params/") for name in found):
    # Beside them there may be the optimizer's state.
    found = {
      name.removeprefix("params/"): array
      for name, array in found.items()
      if name.startswith("params/")
    }
  return _unstack(found)


def _member(path, file, archive, info, cached) -> Array:
  with archive.open(info) as member:
    version = np.lib.format.read_magic(member)
    read_header = (
      np.lib.format.read_array_header_1_0
      if version == (1, 0)
      else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = read_header(member)
    header = member.tell()
  if dtype == np.dtype("V2"):
    dtype = np.dtype(ml_dtypes.bfloat16)
  if dtype.kind != "f" and dtype != ml_dtypes.bfloat16:
    dtype = str(dtype)
  where = f"{info.filename.removesuffix('.npy')} of {path.name}"
  if info.compress_type == zipfile.ZIP_STORED and not is_fortran:
    file.seek(info.header_offset)
    local = file.read(_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", local[26:30])
    start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    array = source.in_file(path, where, shape, dtype, start + header)
    check = functools.cache(functools.partial(_check_sum, path, info.filename))

    def read_checked(index: Index) -> np.ndarray:
      check()
      return array.read(index)

    return dataclasses.replace(array, read=read_checked)

  def read(index: Index) -> np.ndarray:
    return cached(path, info.filename).view(dtype)[index]

  return Array(where, shape, dtype, read)


def _check_sum(path: pathlib.Path, name: str) -> None:
  """Reads a member once, in pieces; ValueError if a byte of it is another."""
  try:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
      while member.read(source.PIECE_BYTES):
        pass
  except (zipfile.BadZipFile, EOFError) as e:
    raise ValueError(f"{path} is damaged: {e}. Fetch it again.") from e


def _read_member(path: pathlib.Path, name: str) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(name) as member:
    return np.lib.format.read_array(member)


def _unstack(found: dict[str, Array]) -> dict[str, Array]:
  out = {}
  for name, array in found.items():
    match = re.fullmatch(r"(.*/encoderblock)/(.*)", name)
    if match is None:
      out[name] = array
      continue
    for layer in range(array.shape[0]):
      out[f"{match[1]}_{layer}/{match[2]}"] = _layer(array, layer)
  return out


def _layer(array: Array, layer: int) -> Array:
  def read(index: Index) -> np.ndarray:
    return array.read((slice(layer, layer + 1), *index))[0]

  where = f"layer {layer} of {array.where}"
  return Array(where, array.shape[1:], array.dtype, read)
