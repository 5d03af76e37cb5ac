"""TFRecord shards as a random-access source: offset index, both checksums.

grain shuffles by index, so a record must be read alone: the index holds each
frame's byte offset, and a read opens the shard, reads one frame and checks
it. No file stays open: thousands of shards need no more than one descriptor,
and the source can be pickled and shared by threads.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from vpd_jax.input import tfrecord


def find_shards(data_dir: str | os.PathLike, split: str) -> list[pathlib.Path]:
  """Shards of a split, in order: NAME-SPLIT.tfrecord-00000-of-00008 and on.

  Raises:
    FileNotFoundError: if the folder, the split or one of its shards is not
      there; lists the splits that are, or the shards that are not.
    ValueError: if the folder holds the split in two sharded forms.
  """
  folder = pathlib.Path(data_dir)
  if not folder.is_dir():
    raise FileNotFoundError(
      f"no data set folder {folder}. Generate it first: python -m data_gen.run"
    )
  pattern = re.compile(r"(\w+)-(\w+)\.tfrecord-(\d{5})-of-(\d{5})")
  found, splits = {}, set()
  for path in folder.iterdir():
    match = pattern.fullmatch(path.name)
    if not match:
      continue
    name, of_split, shard, num_shards = match.groups()
    splits.add(of_split)
    if of_split == split:
      found.setdefault((name, int(num_shards)), {})[int(shard)] = path
  if not found:
    raise FileNotFoundError(
      f"{folder} has no split {split!r}; it has {sorted(splits)}"
    )
  if len(found) > 1:
    forms = sorted(f"{name} of {n} shards" for name, n in found)
    raise ValueError(
      f"{folder} holds split {split!r} more than once: {forms}. Keep one."
    )
  ((name, num_shards), paths) = next(iter(found.items()))
  missing = [
    f"{name}-{split}.tfrecord-{i:05d}-of-{num_shards:05d}"
    for i in range(num_shards)
    if i not in paths
  ]
  if missing:
    raise FileNotFoundError(
      f"{folder} lacks {len(missing)} of {num_shards} shards of split"
      f" {split!r}: {', '.join(missing[:5])}"
      f"{', ...' if len(missing) > 5 else ''}. Run data_gen again: it makes"
      " only what is missing."
    )
  return [paths[i] for i in range(num_shards)]


class RecordSource:
  """Payloads of TFRecord files by number; a grain RandomAccessDataSource."""

  def __init__(self, paths: Sequence[str | os.PathLike]):
    """Indexes the files, reading the header of each frame.

    Raises:
      ValueError: if a header is damaged or a file cut short.
    """
    self._paths = [os.fspath(path) for path in paths]
    # Per file the offset of each frame and, last, the end of the file.
    self._offsets = [_frame_offsets(path) for path in self._paths]
    self._ends = np.cumsum([len(o) - 1 for o in self._offsets], dtype=np.int64)

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: SupportsIndex) -> bytes:
    """Payload of record `index`, counted over all files.

    Raises:
      IndexError: if there is no such record.
      ValueError: if it is damaged; names the file and the record in it.
    """
    number = index.__index__()
    if not 0 <= number < len(self):
      raise IndexError(f"record {number} of {len(self)}")
    file = int(np.searchsorted(self._ends, number, side="right"))
    offsets = self._offsets[file]
    row = number - (int(self._ends[file]) - (len(offsets) - 1))
    start, end = int(offsets[row]), int(offsets[row + 1])
    path = self._paths[file]
    descriptor = os.open(path, os.O_RDONLY)
    try:
      frame = os.pread(descriptor, end - start, start)
    finally:
      os.close(descriptor)
    split_at = tfrecord.HEADER_BYTES
    length = tfrecord.check_header(frame[:split_at], path, row, start)
    return tfrecord.check_body(frame[split_at:], length, path, row, start)

  def __repr__(self) -> str:
    first = self._paths[0] if self._paths else "none"
    return f"RecordSource({first}, {len(self._paths)} files, {len(self)})"


def _frame_offsets(path: str) -> np.ndarray:
  """int64[records + 1]: where each frame starts, and the file's size."""
  offsets = [0]
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    while offsets[-1] < size:
      row, start = len(offsets) - 1, offsets[-1]
      header = os.pread(file.fileno(), tfrecord.HEADER_BYTES, start)
      length = tfrecord.check_header(header, path, row, start)
      end = start + tfrecord.HEADER_BYTES + length + tfrecord.FOOTER_BYTES
      if end > size:
        tfrecord.check_body(b"", length, path, row, start)  # Raises.
      offsets.append(end)
  return np.asarray(offsets, np.int64)
