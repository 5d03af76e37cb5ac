"""Files of a shard: rows, frames and a record, visible only when complete."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, TypeVar

from data_gen import records
from vpd_jax.input import tfrecord

RECORDS_FOLDER = "shards"
MEASURED_FOLDER = "measured"

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True, order=True)
class Shard:
  """One shard of a split; `str(shard)` is "train-00000-of-00008"."""

  split: str
  index: int
  num_shards: int

  def __str__(self) -> str:
    return f"{self.split}-{self.index:05d}-of-{self.num_shards:05d}"


def shards_of(splits: Mapping[str, Mapping[str, Any]]) -> list[Shard]:
  """All shards of a config's splits, in order."""
  return [
    Shard(split, i, options["num_shards"])
    for split, options in splits.items()
    for i in range(options["num_shards"])
  ]


class ShardOutput:
  """What a worker writes for one shard.

  Files have temporary names until `commit`, which renames them and writes the
  shard's record last; so a shard with a record is whole.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    shard: Shard,
    on_row: Callable[[], None] = lambda: None,
  ):
    self._folder = folder
    self._shard = shard
    self._on_row = on_row
    self._files: dict[str, IO[bytes]] = {}
    self._tallies: dict[str, Counter] = {}
    self._facts: dict[str, Any] = {}
    self._measured: dict[str, Any] = {}

  def open(self, name: str) -> None:
    """Makes the file `name` of this shard, if it is not there yet."""
    if name not in self._files:
      with _named(self._folder / name):
        self._files[name] = _temporary(self._folder / name).open("wb")

  def write_row(self, row: Any) -> None:
    """One dataclass of `data_gen.records` as a line of SHARD.jsonl."""
    line = records.to_json(row) + "\n"
    self._write(f"{self._shard}.jsonl", line.encode())

  def write_frame(self, payload: bytes, name: str) -> None:
    """One TFRecord frame of the file `name`."""
    self._write(name, tfrecord.frame(payload))

  def tally(self, family: str, reason: str = "") -> None:
    """Counts one row of `family`: good, or without a result for `reason`."""
    self._tallies.setdefault(family, Counter())[reason] += 1
    self._on_row()

  def note(self, **facts: Any) -> None:
    """Keeps plain facts in the shard's record."""
    self._facts.update(facts)

  def measure(self, **facts: Any) -> None:
    """Keeps plain facts of this very run beside the record, such as counts of
    cache hits: no part of what must be the same each time."""
    self._measured.update(facts)

  def commit(self) -> dict[str, Any]:
    """Makes the files visible; returns the shard's record."""
    sizes = {}
    for name, file in sorted(self._files.items()):
      with _named(self._folder / name):
        file.flush()
        os.fsync(file.fileno())
        sizes[name] = file.tell()
        file.close()
    for name in sizes:
      with _named(self._folder / name):
        os.replace(_temporary(self._folder / name), self._folder / name)
    record = {
      "rows": sum(c.total() for c in self._tallies.values()),
      "tallies": {
        family: dict(sorted(counts.items()))
        for family, counts in sorted(self._tallies.items())
      },
      "files": sizes,
      **self._facts,
    }
    if self._measured:
      write_json(_measured_path(self._folder, self._shard), self._measured)
    write_json(_record_path(self._folder, self._shard), record)
    return record

  def discard(self) -> None:
    """Removes what was written so far."""
    for name, file in self._files.items():
      with contextlib.suppress(OSError):  # Of a full disk, once more.
        file.close()
      _temporary(self._folder / name).unlink(missing_ok=True)

  def _write(self, name, data):
    self.open(name)
    with _named(self._folder / name):
      self._files[name].write(data)


def read_record(folder: pathlib.Path, shard: Shard) -> dict[str, Any] | None:
  """A finished shard's record; None if it is not whole."""
  try:
    record = json.loads(_record_path(folder, shard).read_text())
    whole = all(
      (folder / name).stat().st_size == size
      for name, size in record["files"].items()
    )
  except FileNotFoundError:
    return None
  return record if whole else None


def read_measured(folder: pathlib.Path) -> list[dict[str, Any]]:
  """What the runs of a stage measured, one of each shard that did."""
  paths = sorted((folder / MEASURED_FOLDER).glob("*.json"))
  return [json.loads(path.read_text()) for path in paths]


def has_records(folder: pathlib.Path) -> bool:
  """Whether some shard of the folder was finished."""
  return any((folder / RECORDS_FOLDER).glob("*.json"))


def read_rows(cls: type[Row], path: pathlib.Path) -> Iterator[Row]:
  """Yields the rows of a JSONL file.

  Raises:
    ValueError: on a line that is no such row; names the file and the line.
  """
  with path.open(encoding="utf-8") as file:
    for number, line in enumerate(file, start=1):
      try:
        yield records.from_json(cls, line)
      except ValueError as e:
        raise ValueError(f"{path}, line {number}: {e}") from e


def read_groups(
  cls: type[Row], path: pathlib.Path
) -> Iterator[tuple[str, list[Row]]]:
  """Yields (question_id, its rows): rows of a question follow each other."""
  rows: Iterator[Any] = read_rows(cls, path)
  for key, group in itertools.groupby(rows, lambda row: row.question_id):
    yield key, list(group)


class Images:
  """Encoded images of a shard, read by id from its file of frames."""

  def __init__(self, path: pathlib.Path):
    self._file = path.open("rb")
    self._name = str(path)
    self._offsets: dict[str, int] = {}
    offset = 0
    for payload in tfrecord.read_frames(self._file, self._name):
      image_id = tfrecord.decode_example(payload)["image_id"][0].decode()
      self._offsets[image_id] = offset
      offset += tfrecord.HEADER_BYTES + len(payload) + tfrecord.FOOTER_BYTES

  def __getitem__(self, image_id: str) -> bytes:
    if image_id not in self._offsets:
      raise ValueError(
        f"{self._name} has no image {image_id!r}. Delete the folder and run"
        " the questions stage again."
      )
    self._file.seek(self._offsets[image_id])
    payload = next(tfrecord.read_frames(self._file, self._name))
    return tfrecord.decode_example(payload)["image"][0]

  def close(self) -> None:
    self._file.close()


def images_name(shard: Shard) -> str:
  """File with the images of a shard, in the folder of its questions."""
  return f"{shard}.images.tfrecord"


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes plain values, sorted and indented, in one atomic step."""
  with _named(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
  write_text(path, text + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in one atomic step."""
  temporary = _temporary(path)
  try:
    with _named(path):
      with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def remove_temporaries(folder: pathlib.Path) -> None:
  """Removes what killed runs left half-written."""
  for path in folder.rglob(".*.tmp-*"):
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
  """Names the file in an error of the file system, such as a full disk."""
  try:
    yield
  except OSError as e:
    raise OSError(
      f"cannot write {path}: {e.strerror or e}. What is finished is kept: make"
      " room and run the same command again."
    ) from e


def _record_path(folder: pathlib.Path, shard: Shard) -> pathlib.Path:
  return folder / RECORDS_FOLDER / f"{shard}.json"


def _measured_path(folder: pathlib.Path, shard: Shard) -> pathlib.Path:
  return folder / MEASURED_FOLDER / f"{shard}.json"


def _temporary(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f".{path.name}.tmp-{os.getpid()}")
