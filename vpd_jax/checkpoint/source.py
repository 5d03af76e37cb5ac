"""Arrays that are read in pieces: of files, of memory, or made of others.

So a model of any size passes through little memory: whoever reads asks for
parts of a known size, and nobody holds a file.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

PIECE_BYTES = 64 * 2**20

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Array:
  """An array elsewhere.

  Attributes:
    where: its name and file, for messages.
    shape: of the whole.
    dtype: of what `read` gives; or the name of one that cannot be read.
    read: part of the array; slices have start and stop, and no step.
    cuts: (axis, step) of parts that can be read alone, first to last.
  """

  where: str
  shape: tuple[int, ...]
  dtype: np.dtype | str
  read: Callable[[Index], np.ndarray]
  cuts: Sequence[tuple[int, int]] = ((0, 1),)

  @property
  def nbytes(self) -> int:
    """Of the whole."""
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize

  def whole(self) -> np.ndarray:
    """Reads all of it."""
    return self.read(full(self.shape))

  def pieces(self, index: Index | None = None) -> Iterator[Index]:
    """Parts of about PIECE_BYTES that make up `index`, or the whole."""
    index = full(self.shape) if index is None else index
    cuts = [(axis, step) for axis, step in self.cuts if axis < len(index)]
    return self._pieces(index, cuts)

  def rows(self) -> Iterator[Index]:
    """Parts that follow each other in C order, small where that can be."""
    return self._pieces(
      full(self.shape), [cut for cut in self.cuts[:1] if cut[0] == 0]
    )

  def _pieces(
    self, index: Index, cuts: list[tuple[int, int]]
  ) -> Iterator[Index]:
    lengths = [part.stop - part.start for part in index]
    size = math.prod(lengths) * np.dtype(self.dtype).itemsize
    if size <= PIECE_BYTES or not cuts:
      yield index
      return
    (axis, step), *rest = cuts
    rows = max(1, PIECE_BYTES * lengths[axis] // size)
    # Whole steps, so that no row of what is behind is read twice.
    rows = -(-rows // step) * step
    start, stop = index[axis].start, index[axis].stop
    while start < stop:
      end = min(stop, (start // step) * step + rows)
      part = (*index[:axis], slice(start, end), *index[axis + 1 :])
      yield from self._pieces(part, rest)
      start = end


def full(shape: Sequence[int]) -> Index:
  """The index of everything."""
  return tuple(slice(0, size) for size in shape)


def finite(array: Array, index: Index) -> np.ndarray:
  """Reads a part; ValueError if it holds a value that is NaN or infinite."""
  values = array.read(index)
  bad = not_finite(values)
  if bad:
    raise ValueError(f"{array.where} has {bad} values, NaN or infinite.")
  return values


def not_finite(values: np.ndarray) -> int:
  """How many are NaN or infinite."""
  return values.size - int(np.count_nonzero(np.isfinite(values)))


def in_memory(array: Any, where: str) -> Array:
  """A numpy or JAX array as one that is read in pieces.

  A JAX array on several devices is brought to the host a piece at a time.
  """

  def read(index: Index) -> np.ndarray:
    return np.asarray(array[index])

  return Array(where, tuple(array.shape), np.dtype(array.dtype), read)


def in_file(
  path: Any, where: str, shape: tuple[int, ...], dtype: Any, offset: int
) -> Array:
  """An array that lies in a file as C order from `offset` on.

  Only the rows that are asked for are read, by seek and read: pages of a
  memory map would count as the process's memory until the system needs them.
  """

  def read(index: Index) -> np.ndarray:
    assert isinstance(dtype, np.dtype), where
    if not shape:
      return np.fromfile(path, dtype, count=1, offset=offset).reshape(())
    start = axis = 0
    # Axes of one row in front only move the start of what is read.
    while axis < len(shape) - 1 and index[axis].stop - index[axis].start == 1:
      start += index[axis].start * math.prod(shape[axis + 1 :])
      axis += 1
    rest = shape[axis + 1 :]
    rows = index[axis].stop - index[axis].start
    start += index[axis].start * math.prod(rest)
    count = rows * math.prod(rest)
    data = np.fromfile(
      path, dtype, count=count, offset=offset + start * dtype.itemsize
    )
    if data.size != count:
      raise ValueError(f"{where}: the file ends within it; fetch it again.")
    data = data.reshape(*(1,) * axis, rows, *rest)
    return data[(*(slice(None),) * (axis + 1), *index[axis + 1 :])]

  return Array(where, shape, dtype, read)
