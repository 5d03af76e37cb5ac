"""Data sets -> batches: endless for training, one pass for evaluation.

The chain is grain's: an order of record numbers (`mixture`), cut into
batches, each loaded by one reading thread ahead of the step. The position is
one number, so a resumed run sees what an unbroken one would have seen.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from vpd_jax.input import mixture, schema, tasks
from vpd_jax.input.records import RecordSource, find_shards
from vpd_jax.input.tokens import Tokenizer

Batch = dict[str, np.ndarray]


class ExampleSource:
  """Rows of a batch by record number; keeps them if told to."""

  def __init__(
    self,
    records: RecordSource,
    tokenizer: Tokenizer,
    lengths: tasks.Lengths,
    *,
    cache: bool = False,
    drop_long: bool = False,
    **options,
  ):
    """Prepares the rows; reads all records once if `drop_long`.

    Args:
      records: TFRecord shards.
      tokenizer: for prompts and targets.
      lengths: of the token arrays.
      cache: keep each row once it was made. For data sets that fit memory: a
        row takes its pixels and about 2 kB.
      drop_long: leave out records with a prompt or an answer that does not
        fit `lengths`, and rationales that do not, and log how many; otherwise
        such a record is an error when it comes. A record whose rationale is
        left out stays, for its label.
      **options: of `tasks.to_arrays`.
    """
    self._records = records
    self._tokenizer = tokenizer
    self._lengths = lengths
    self._options = options
    self._kept: Sequence[int] = range(len(records))
    self._without_rationale: set[int] = set()
    if drop_long:
      self._drop_long()
    self._cache: dict[int, Batch] | None = {} if cache else None

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, index: int) -> Batch:
    if self._cache is None:
      return self.arrays(self.record(index))
    row = self._cache.get(index)
    if row is None:
      row = self._cache[index] = self.arrays(self.record(index))
    return row

  def record(self, index: int) -> dict[str, Any]:
    """The record itself, see `schema`."""
    number = self._kept[index]
    record = schema.parse(self._records[number])
    return _blank(record) if number in self._without_rationale else record

  def arrays(self, record: Mapping[str, Any]) -> Batch:
    """The record as a row of a batch."""
    return tasks.to_arrays(
      record, self._tokenizer, self._lengths, **self._options
    )

  def _drop_long(self) -> None:
    """Finds what does not fit, reading all records once."""
    kept = []
    for number in self._kept:
      record = schema.parse(self._records[number])
      if self._fits(record):
        kept.append(number)
      elif self._fits(_blank(record)):
        kept.append(number)
        self._without_rationale.add(number)
    if len(kept) < len(self._kept) or self._without_rationale:
      logging.warning(
        "%r: left out %d records and %d rationales that do not fit %s",
        self._records,
        len(self._kept) - len(kept),
        len(self._without_rationale),
        self._lengths,
      )
    self._kept = kept

  def _fits(self, record: Mapping[str, Any]) -> bool:
    options = {
      k: v for k, v in self._options.items() if not k.startswith("image_")
    }
    try:
      tasks.tokenize(record, self._tokenizer, self._lengths, **options)
    except tasks.TooLongError:
      return False
    return True


class TrainBatches:
  """Endless batches with a position that can be saved and set."""

  def __init__(
    self, order: grain.MapDataset, load, *, num_threads: int, about: dict
  ):
    """Starts at the first batch.

    Args:
      order: batches of record numbers.
      load: record numbers of a global batch -> this process's rows.
      num_threads: that load ahead; 0: load when asked.
      about: JSON-safe facts that the order depends on; saved with the
        position, and compared when it is set.
    """
    read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4)
    self._iterator = iter(order.map(load).to_iter_dataset(read))
    self._about = about

  def __iter__(self) -> "TrainBatches":
    return self

  def __next__(self) -> Batch:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """Position after the batches given out so far; JSON-safe."""
    return {"order": self._about, "position": self._iterator.get_state()}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on from a saved position.

    Raises:
      ValueError: if it was saved with other data, batch size or seed: the
        run would see other examples than the one it continues.
    """
    saved = state["order"]
    differ = [
      f"{key}: saved {saved.get(key)}, now {self._about.get(key)}"
      for key in sorted({*saved, *self._about})
      if saved.get(key) != self._about.get(key)
    ]
    if differ:
      raise ValueError(
        "the saved input position belongs to another input ("
        + "; ".join(differ)
        + "). Go on with the same data and settings, or start in a new"
        " workdir."
      )
    self._iterator.set_state(dict(state["position"]))


def train_batches(
  data: Sequence[Mapping[str, Any]],
  tokenizer: Tokenizer,
  lengths: tasks.Lengths,
  batch_size: int,
  *,
  seed: int,
  image_px: int,
  cache: bool = False,
  drop_long: bool = False,
  rows: Sequence[int] | None = None,
  num_threads: int = 1,
  **options,
) -> TrainBatches:
  """Shuffled, mixed, endless batches.

  Args:
    data: data sets, each {"dir", "split", "weight"} and, where they differ
      from the rest, options of `tasks.to_arrays`.
    tokenizer: for prompts and targets.
    lengths: of the token arrays.
    batch_size: examples in a global batch.
    seed: of the order.
    image_px: height and width of images.
    cache: keep rows in memory, see `ExampleSource`.
    drop_long: leave out records that do not fit, see `ExampleSource`.
    rows: of the global batch that this process loads, see
      `mixture.process_rows`; None: all.
    num_threads: that load ahead.
    **options: of `tasks.to_arrays`, for all data sets.

  Returns:
    Iterator of dicts of arrays as `tasks.to_arrays` returns, with a leading
    axis of len(rows).

  Raises:
    FileNotFoundError: if a data set is not there.
    ValueError: if a data set is empty or damaged, or its first record does
      not fit; later records are checked when they come.
  """
  sources, weights = [], []
  for entry in data:
    entry = {**options, **entry}
    shards = find_shards(entry.pop("dir"), entry.pop("split"))
    weights.append(float(entry.pop("weight", 1.0)))
    source = ExampleSource(
      RecordSource(shards),
      tokenizer,
      lengths,
      cache=cache,
      drop_long=drop_long,
      image_px=image_px,
      **entry,
    )
    sources.append(source)
  sizes = [len(source) for source in sources]
  order = mixture.order(sizes, weights, seed).batch(batch_size, batch_fn=list)
  for source in sources:
    _ = source[0]  # A misspelt option fails here, not in a thread.
  ends = np.cumsum(sizes)
  mine = range(batch_size) if rows is None else rows

  def load(numbers: list[int]) -> Batch:
    loaded = []
    for number in (numbers[row] for row in mine):
      part = int(np.searchsorted(ends, number, side="right"))
      loaded.append(sources[part][number - int(ends[part]) + sizes[part]])
    return _stack(loaded)

  about = {
    "batch_size": batch_size,
    "seed": seed,
    "sizes": sizes,
    "weights": weights,
  }
  return TrainBatches(order, load, num_threads=num_threads, about=about)


def eval_batches(
  data_dir: str,
  split: str,
  tokenizer: Tokenizer,
  lengths: tasks.Lengths,
  batch_size: int,
  *,
  image_px: int,
  rows: Sequence[int] | None = None,
  with_targets: bool = True,
  **options,
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
  """One pass over a split, in file order.

  Args:
    data_dir: folder of the data set.
    split: its name.
    tokenizer: for prompts and targets.
    lengths: of the token arrays.
    batch_size: examples in a global batch.
    image_px: height and width of images.
    rows: of the global batch that this process loads; None: all.
    with_targets: False leaves the targets empty, so that none of them has to
      fit: a prediction may be scored against texts of any length.
    **options: of `tasks.to_arrays`.

  Yields:
    (batch, records): arrays as in `train_batches` and is_real bool[rows], and
    the records of the real rows. The last global batch is filled up with
    copies of the last record that have `is_real` False and weights 0, so every
    batch has one shape and every process sees as many.
  """
  source = ExampleSource(
    RecordSource(find_shards(data_dir, split)),
    tokenizer,
    lengths,
    image_px=image_px,
    **options,
  )
  mine = range(batch_size) if rows is None else rows
  for start in range(0, len(source), batch_size):
    numbers = np.asarray([start + row for row in mine])
    is_real = numbers < len(source)
    records = [source.record(min(n, len(source) - 1)) for n in numbers]
    if not with_targets:
      rows_of = [_blank(record) | {"answer": ""} for record in records]
    else:
      rows_of = records
    batch = _stack([source.arrays(record) for record in rows_of])
    for key in ("label_weights", "rationale_weights"):
      batch[key] *= is_real[:, None]
    batch["is_real"] = is_real
    yield batch, [r for r, real in zip(records, is_real, strict=True) if real]


def _stack(rows: Sequence[Batch]) -> Batch:
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _blank(record: dict[str, Any]) -> dict[str, Any]:
  """The record without its rationales."""
  return record | {"rationale": "", "reference_rationale": ""}
