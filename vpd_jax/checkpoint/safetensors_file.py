"""One .safetensors file: reads its header, checks it, writes it in pieces.

Format: huggingface.co/docs/safetensors; eight bytes of length, a JSON header,
then the arrays without gaps. Read and written here, since a writer that takes
one array at a time is what keeps an export of any size in little memory.
"""

import json
import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vpd_jax.checkpoint import source

DTYPES: Mapping[str, np.dtype] = types.MappingProxyType(
  {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
  }
)
# Bits of what may lie in a file without being a weight.
_OTHER_BITS = types.MappingProxyType(
  {
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16"), 16),
    **dict.fromkeys(("I32", "U32"), 32),
    **dict.fromkeys(("I64", "U64", "C64"), 64),
  }
)
_HEADER_LIMIT = 100 * 2**20  # As the library's.


def scan(path: str | os.PathLike) -> dict[str, source.Array]:
  """The arrays of a file by name. Reads the header only.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is cut off, or its header is damaged or lies.
  """
  path = pathlib.Path(path)
  try:
    with open(path, "rb") as file:
      entries, offset = _header(file, path.stat().st_size)
  # RecursionError: a header of brackets within brackets.
  except (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
  ) as e:
    raise ValueError(
      f"{path} ({path.stat().st_size} bytes) is cut off or damaged: {e}."
      " Fetch it again."
    ) from e
  return {
    name: source.in_file(
      path,
      f"{name} of {path.name}",
      tuple(entry["shape"]),
      DTYPES.get(entry["dtype"], entry["dtype"]),
      offset + entry["data_offsets"][0],
    )
    for name, entry in entries.items()
  }


def write(
  path: str | os.PathLike,
  arrays: Mapping[str, source.Array],
  dtype: np.dtype | None = None,
  also: Callable[[Any], object] | None = None,
) -> None:
  """Writes a file, piece by piece.

  Args:
    path: of the file; replaced if it is there.
    arrays: by name.
    dtype: to write them in; None: each as it is.
    also: is given all bytes of the file too, such as a digest's `update`.

  Raises:
    ValueError: if a value is NaN or infinite.
  """
  names = {value: name for name, value in DTYPES.items()}
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, array in arrays.items():
    kind = np.dtype(dtype or array.dtype)
    start, end = end, end + math.prod(array.shape) * kind.itemsize
    header[name] = {
      "dtype": names[kind],
      "shape": list(array.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:

    def put(data) -> None:
      file.write(data)
      if also is not None:
        also(data)

    put(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
      for index in array.rows():
        piece = source.finite(array, index).astype(dtype or array.dtype)
        put(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
  """(entries by name, where the arrays begin), checked against the size."""
  length = int.from_bytes(file.read(8), "little")
  if size < 8 or not 0 < length <= min(size - 8, _HEADER_LIMIT):
    raise ValueError(f"its header would be {length} bytes long")
  entries = json.loads(file.read(length), object_pairs_hook=_once)
  if not isinstance(entries, dict):
    raise ValueError("its header is a list")
  entries.pop("__metadata__", None)
  for name, entry in entries.items():
    if any(not _is_count(n) for n in entry["data_offsets"]):
      raise ValueError(f"{name} has data_offsets {entry['data_offsets']}")
  end = 0
  for name, entry in sorted(
    entries.items(), key=lambda item: item[1]["data_offsets"]
  ):
    start, stop = entry["data_offsets"]
    if start != end or stop < start:
      raise ValueError(f"{name} begins at {start}, the array before ends {end}")
    _check_size(name, entry, stop - start)
    end = stop
  if 8 + length + end != size:
    raise ValueError(f"its arrays would end at byte {8 + length + end}")
  return entries, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; of a name that is there twice one would be lost."""
  out = dict(pairs)
  if len(out) != len(pairs):
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    raise ValueError(f"its header has {twice} twice")
  return out


def _is_count(value: Any) -> bool:
  return type(value) is int and value >= 0


def _check_size(name: str, entry: Mapping[str, Any], size: int) -> None:
  kind, shape = entry["dtype"], entry["shape"]
  if not isinstance(shape, list) or any(not _is_count(n) for n in shape):
    raise ValueError(f"{name} has shape {shape}")
  if kind in DTYPES:
    bits = DTYPES[kind].itemsize * 8
  elif kind in _OTHER_BITS:
    bits = _OTHER_BITS[kind]
  else:
    return  # Of a newer version of the format; only an error if it is needed.
  if math.prod(shape) * bits != size * 8:
    raise ValueError(f"{name}, {kind} {shape}, has {size} bytes")
