"""Records -> rows of a batch: one question each, or several of one image."""

import array
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpd_jax.input import schema, tasks
from vpd_jax.input.records import RecordSource
from vpd_jax.input.tokens import Tokenizer

Batch = dict[str, np.ndarray]

# All of a record but its picture.
_TEXTS = tuple(f.name for f in schema.FIELDS if f.kind != "image")


class ExampleSource:
  """Units of a batch by number; keeps them if told to.

  A unit is an image and `questions_per_image` questions about it. With one
  question, units are the records. With more, each image's questions are cut
  into units in file order, and the last is filled up with rows that have no
  weight:

      records   a1 b1 a2 a3 b2          (images a and b)
      units     a1 a2 | a3 -- | b1 b2   (two questions each)
  """

  def __init__(
    self,
    records: RecordSource,
    tokenizer: Tokenizer,
    lengths: tasks.Lengths,
    *,
    cache: bool = False,
    drop_long: bool = False,
    questions_per_image: int = 1,
    **options,
  ):
    """Prepares the units.

    Reads all records once for `drop_long` or several questions an image, and
    logs how long that took.

    Args:
      records: TFRecord shards.
      tokenizer: for prompts and targets.
      lengths: of the token arrays.
      cache: keep each unit once it was made. For data sets that fit memory: a
        unit takes its pixels and about 2 kB a question.
      drop_long: leave out records with a prompt or an answer that does not
        fit `lengths`, and rationales that do not, and log how many; otherwise
        such a record is an error when it comes. A record whose rationale is
        left out stays, for its label.
      questions_per_image: rows of a unit.
      **options: of `tasks.to_arrays`.

    Raises:
      ValueError: if a record that must be grouped has no image_id.
    """
    self._records = records
    self._tokenizer = tokenizer
    self._lengths = lengths
    self._options = options
    self._text_options = {
      k: v for k, v in options.items() if not k.startswith("image_")
    }
    self._without_rationale: set[int] = set()
    # int64[units, questions_per_image], record numbers, -1: none. None: each
    # record is a unit.
    self._units: np.ndarray | None = None
    if drop_long or questions_per_image > 1:
      self._units = self._scan(drop_long, questions_per_image)
    self._cache: dict[int, Batch] | None = {} if cache else None

  def __len__(self) -> int:
    return len(self._records if self._units is None else self._units)

  def __getitem__(self, unit: int) -> Batch:
    """Arrays of `tasks.to_arrays` with leading axes.

    Returns:
      What the image tower is given [1, ...], the others
      [questions_per_image, ...]. A row that fills up is the first one's with
      all weights 0.

    Raises:
      ValueError: if a record is damaged, or two of one image_id have different
        pictures.
      tasks.TooLongError: if a text does not fit.
    """
    if self._cache is None:
      return self._load(unit)
    rows = self._cache.get(unit)
    if rows is None:
      rows = self._cache[unit] = self._load(unit)
    return rows

  def example_ids(self, unit: int) -> list[str]:
    """Names of a unit's rows; "" for one that fills up."""
    return [
      schema.parse(self._records[number], ["example_id"])["example_id"]
      if number >= 0
      else ""
      for number in self._numbers(unit)
    ]

  def record(self, number: int) -> dict[str, Any]:
    """A record by its place in the files, see `schema`."""
    record = schema.parse(self._records[number])
    return blank(record) if number in self._without_rationale else record

  def arrays(self, record: Mapping[str, Any]) -> Batch:
    """The record as a row, without leading axes."""
    return tasks.to_arrays(
      record, self._tokenizer, self._lengths, **self._options
    )

  def _numbers(self, unit: int) -> list[int]:
    return [unit] if self._units is None else self._units[unit].tolist()

  def _load(self, unit: int) -> Batch:
    numbers = self._numbers(unit)
    first = self.record(numbers[0])
    rows = self.arrays(first)
    image = {k: rows.pop(k) for k in list(rows) if k.startswith("image")}
    texts = [rows]
    for number in numbers[1:]:
      if number < 0:
        texts.append(_filler(rows))
        continue
      record = self.record(number)
      if record["image"] != first["image"]:
        raise ValueError(
          f"records {first['example_id']!r} and {record['example_id']!r} of"
          f" {self._records!r} share image_id {first['image_id']!r}, but not"
          " the picture. Give each picture an id of its own, or set"
          " input.questions_per_image=1."
        )
      texts.append(self._tokenize(record))
    return {key: x[None] for key, x in image.items()} | {
      key: np.stack([text[key] for text in texts]) for key in rows
    }

  def _tokenize(self, record: Mapping[str, Any]) -> Batch:
    return tasks.tokenize(
      record, self._tokenizer, self._lengths, **self._text_options
    )

  def _scan(self, drop_long: bool, questions_per_image: int) -> np.ndarray:
    """Reads all records once: what fits, and which belong together."""
    start = time.perf_counter()
    kept, images = array.array("q"), array.array("q")
    number_of: dict[str, int] = {}
    names = _TEXTS if drop_long else ("example_id", "image_id")
    for number in range(len(self._records)):
      record = schema.parse(self._records[number], names)
      if drop_long and not self._fits(record):
        if not self._fits(blank(record)):
          continue
        self._without_rationale.add(number)
      kept.append(number)
      if questions_per_image > 1:
        image_id = record["image_id"]
        if not image_id:
          raise ValueError(
            f"record {record['example_id']!r} of {self._records!r} has no"
            " image_id, which says what questions share a picture. Generate"
            " the data with one, or set input.questions_per_image=1."
          )
        images.append(number_of.setdefault(image_id, len(number_of)))
    seconds = time.perf_counter() - start
    left_out = len(self._records) - len(kept)
    if left_out or self._without_rationale:
      logging.warning(
        "%r: left out %d records and %d rationales that do not fit %s",
        self._records,
        left_out,
        len(self._without_rationale),
        self._lengths,
      )
    numbers = np.asarray(kept, np.int64)
    if questions_per_image == 1:
      return numbers[:, None]
    units = group(np.asarray(images, np.int64), questions_per_image)
    logging.warning(
      "%r: %d questions about %d images make %d groups of %d; %.1f%% of the"
      " rows only fill up. All records were read once, in %.1f s.",
      self._records,
      len(kept),
      len(number_of),
      len(units),
      questions_per_image,
      100 * np.mean(units < 0) if len(units) else 0.0,
      seconds,
    )
    return np.where(units < 0, -1, numbers[units]) if len(kept) else units

  def _fits(self, record: Mapping[str, Any]) -> bool:
    try:
      self._tokenize(record)
    except tasks.TooLongError:
      return False
    return True


def group(images: np.ndarray, size: int) -> np.ndarray:
  """Cuts the places of each value into groups, in order.

      group([0, 1, 0, 0, 1], 2)  ->  [[0, 2], [3, -1], [1, 4]]

  Args:
    images: int[n], the same number for what belongs together.
    size: places in a group.

  Returns:
    int64[groups, size]: places in `images`; -1 where a group is not full.
  """
  if not len(images):
    return np.empty((0, size), np.int64)
  order = np.argsort(images, kind="stable")
  is_first = np.diff(images[order], prepend=images[order[0]] - 1) != 0
  starts = np.flatnonzero(is_first)
  place = np.arange(len(images)) - starts[np.cumsum(is_first) - 1]
  row, column = np.cumsum(place % size == 0) - 1, place % size
  groups = np.full((row[-1] + 1, size), -1, np.int64)
  groups[row, column] = order
  return groups


def join(units: Sequence[Batch]) -> Batch:
  """Units as one batch: their rows one after another."""
  return {key: np.concatenate([u[key] for u in units]) for key in units[0]}


def blank(record: dict[str, Any]) -> dict[str, Any]:
  """The record without its rationales."""
  return record | {"rationale": "", "reference_rationale": ""}


def _filler(rows: Batch) -> Batch:
  return {
    key: np.zeros_like(x) if key.endswith("_weights") else x
    for key, x in rows.items()
  }
