"""Data sets -> batches: endless for training, one pass for evaluation.

An order of units (`mixture`) is cut into batches, each made ahead of the step
(`workers`). The position is the number of batches given out, so a resumed run
sees what an unbroken one would have seen, however many threads, workers or
processes either has.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vpd_jax.input import examples, mixture, tasks, workers
from vpd_jax.input.examples import Batch, ExampleSource
from vpd_jax.input.records import RecordSource, find_shards
from vpd_jax.input.synthetic import SyntheticSource
from vpd_jax.input.tokens import Tokenizer


class TrainBatches:
  """Endless batches with a position that can be saved and set."""

  def __init__(
    self,
    source: workers.BatchSource,
    *,
    num_threads: int,
    num_workers: int,
    about: dict[str, Any],
  ):
    """Starts before the first batch.

    Args:
      source: of the batches.
      num_threads, num_workers: as in `workers.iterate`.
      about: JSON-safe facts that the order depends on; saved with the
        position, and compared when it is set.
    """
    self._source = source
    self._ahead = {"num_threads": num_threads, "num_workers": num_workers}
    self._about = about
    self._position = 0
    self._iterator: workers.Batches | None = None

  def __iter__(self) -> "TrainBatches":
    return self

  def __next__(self) -> Batch:
    """The next batch: this process's rows.

    Raises:
      ValueError: if a record of it is damaged or does not fit.
      ChildProcessError: if a worker was killed.
    """
    if self._iterator is None:
      self._iterator = workers.iterate(
        self._source, self._position, **self._ahead
      )
    batch = next(self._iterator)
    self._position += 1
    return batch

  def example_ids(self, batch_number: int) -> list[str]:
    """Names of all rows of a global batch, read when asked; 0 is the first."""
    return self._source.example_ids(batch_number)

  def get_state(self) -> dict[str, Any]:
    """Position after the batches given out so far; JSON-safe."""
    return {"order": self._about, "position": self._position}

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
    if differ or not isinstance(state["position"], int):
      why = "; ".join(differ) or f"position {state['position']!r} is no number"
      raise ValueError(
        f"the saved input position belongs to another input ({why}). Go on"
        " with the same data and settings, or start in a new workdir."
      )
    self.close()
    self._position = state["position"]

  def close(self) -> None:
    """Ends threads and workers; they start anew with the next `next`."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def train_batches(
  data: Sequence[Mapping[str, Any]],
  tokenizer: Tokenizer,
  lengths: tasks.Lengths,
  batch_size: int,
  *,
  seed: int,
  image_px: int,
  questions_per_image: int = 1,
  cache: bool = False,
  drop_long: bool = False,
  rows: Sequence[int] | None = None,
  num_threads: int = 1,
  num_workers: int = 0,
  synthetic: bool = False,
  **options,
) -> TrainBatches:
  """Shuffled, mixed, endless batches.

  Args:
    data: data sets, each {"dir", "split", "weight"} and, where they differ
      from the rest, options of `tasks.to_arrays`.
    tokenizer: for prompts and targets.
    lengths: of the token arrays.
    batch_size: questions in a global batch.
    seed: of the order.
    image_px: height and width of images.
    questions_per_image: questions that share an image of the batch, see
      `ExampleSource`. With several data sets, weights are shares of images.
    cache: keep what was made in memory, see `ExampleSource`.
    drop_long: leave out records that do not fit, see `ExampleSource`.
    rows: of the global batch that this process loads, see
      `mixture.rows_of`; None: all.
    num_threads: that load ahead, in each process that loads.
    num_workers: processes that load beside this one; 0: this one does. The
      batches are the same. Each takes about 200 MB and four batches of memory,
      and a few seconds to start.
    synthetic: read no data: one random batch again and again.
    **options: of `tasks.to_arrays`, for all data sets.

  Returns:
    Iterator of dicts of arrays as `tasks.to_arrays` returns, with a leading
    axis: len(rows) for texts, len(rows) / questions_per_image for images.

  Raises:
    FileNotFoundError: if a data set is not there.
    ValueError: if a data set is empty or damaged, its first record does not
      fit, or rows do not hold whole groups; later records are checked when
      they come.
  """
  units = _units(batch_size, rows, questions_per_image)
  about: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
  if questions_per_image > 1:
    about["questions_per_image"] = questions_per_image
  if synthetic:
    made = SyntheticSource(
      tokenizer,
      lengths,
      batch_size,
      image_px=image_px,
      seed=seed,
      units=units,
      questions_per_image=questions_per_image,
      image_patch_px=options.get("image_patch_px"),
    )
    about["synthetic"] = True
    return TrainBatches(made, num_threads=0, num_workers=0, about=about)
  if cache and num_workers:
    raise ValueError(
      f"input.cache=True keeps rows in this process, and"
      f" input.num_workers={num_workers} makes them in others. Use one of them:"
      " cache for data that fits memory, workers for data that does not."
    )
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
      questions_per_image=questions_per_image,
      image_px=image_px,
      **entry,
    )
    sources.append(source)
  sizes = [len(source) for source in sources]
  order = mixture.order(sizes, weights, seed)
  for source in sources:
    _ = source[0]  # A misspelt option fails here, not in a thread.
  about |= {"sizes": sizes, "weights": weights}
  return TrainBatches(
    _Mixed(sources, order, batch_size // questions_per_image, units),
    num_threads=num_threads,
    num_workers=num_workers,
    about=about,
  )


class _Mixed:
  """Batches of several sources in one order; a `workers.BatchSource`."""

  def __init__(
    self,
    sources: Sequence[ExampleSource],
    order: Any,
    units_per_batch: int,
    mine: Sequence[int],
  ):
    """Args: order: of `mixture`; mine: units of a batch to load."""
    self._sources, self._order = sources, order
    self._units_per_batch, self._mine = units_per_batch, mine
    self._ends = np.cumsum([len(source) for source in sources])

  def __getitem__(self, number: int) -> Batch:
    found = [self._find(number, unit) for unit in self._mine]
    return examples.join([source[index] for source, index in found])

  def example_ids(self, number: int) -> list[str]:
    ids = []
    for unit in range(self._units_per_batch):
      source, index = self._find(number, unit)
      ids += source.example_ids(index)
    return ids

  def _find(self, number: int, unit: int) -> tuple[ExampleSource, int]:
    """A unit of a batch: which source has it, and its number there."""
    at = self._order[number * self._units_per_batch + unit]
    part = int(np.searchsorted(self._ends, at, side="right"))
    source = self._sources[part]
    return source, at - int(self._ends[part]) + len(source)


def _units(
  batch_size: int, rows: Sequence[int] | None, questions_per_image: int
) -> list[int]:
  """Units of a batch that hold these rows, and no others."""
  size = questions_per_image
  mine = list(range(batch_size) if rows is None else rows)
  starts = mine[::size]
  whole = [start + i for start in starts for i in range(size)]
  if mine == whole and all(start % size == 0 for start in starts):
    return [start // size for start in starts]
  step = size * (batch_size // len(mine))
  near = batch_size // step * step
  raise ValueError(
    f"input.batch_size={batch_size} does not cut into whole groups of"
    f" input.questions_per_image={size} where each process has {len(mine)} rows;"
    f" try {f'{near} or ' if near else ''}{near + step}."
  )


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
      rows_of = [examples.blank(record) | {"answer": ""} for record in records]
    else:
      rows_of = records
    arrays = [source.arrays(record) for record in rows_of]
    batch = {key: np.stack([a[key] for a in arrays]) for key in arrays[0]}
    for key in ("label_weights", "rationale_weights"):
      batch[key] *= is_real[:, None]
    batch["is_real"] = is_real
    yield batch, [r for r, real in zip(records, is_real, strict=True) if real]
