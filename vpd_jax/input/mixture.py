"""Which record comes when: data set weights, epochs, seeds, process rows.

An order is an endless sequence of numbers of units (records, or groups of one
image), counted over the data sets one after another. Every process draws the
same order and takes its own rows of each batch, so the batches do not depend
on the number of processes.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grain
import numpy as np

if TYPE_CHECKING:
  import jax


def order(
  sizes: Sequence[int], weights: Sequence[float], seed: int
) -> grain.MapDataset:
  """Endless order over data sets: each shuffled anew each epoch, then mixed.

  Data set d owns the numbers from sum(sizes[:d]) on. Of any n elements in a
  row, each data set has its share of n, to within rounding.

  Args:
    sizes: units in each data set.
    weights: relative share of each; they need not add up to 1.
    seed: of the shuffles.

  Raises:
    ValueError: if a size or a weight is not above 0, or the counts differ.
  """
  if len(sizes) != len(weights) or not sizes:
    raise ValueError(
      f"{len(sizes)} data sets and {len(weights)} weights; expected as many,"
      " and at least one"
    )
  parts, start = [], 0
  for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
    if size <= 0 or not weight > 0:
      raise ValueError(
        f"data set {number} of the mixture has {size} records and weight"
        f" {weight}; both must be above 0. Leave it out instead."
      )
    epochs = _Epochs(start, size, [seed, number])
    parts.append(grain.MapDataset.source(epochs))
    start += size
  return grain.MapDataset.mix(parts, weights=list(weights))


class _Epochs:
  """Numbers from `start` on, each epoch a shuffle of its own; endless.

  grain's own shuffle encrypts the index, which for a data set of a few
  records takes 2 ms an element; a permutation takes none, and 8 bytes a
  record.
  """

  def __init__(self, start: int, size: int, seed: Sequence[int]):
    self._start, self._size, self._seed = start, size, list(seed)
    self._latest = (-1, np.empty(0, np.int64))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> int:
    epoch, place = divmod(index, self._size)
    # Read and replaced in one go, so that threads may share it.
    latest, numbers = self._latest
    if latest != epoch:
      rng = np.random.default_rng([*self._seed, epoch])
      numbers = rng.permutation(self._size)
      self._latest = (epoch, numbers)
    return self._start + int(numbers[place])


def rows_of(sharding: "jax.sharding.Sharding", batch_size: int) -> list[int]:
  """Rows of a global batch that this process's devices hold.

  Two processes have the same rows where a mesh axis that does not cut the
  batch, as `tensor`, crosses them.

  Args:
    sharding: of an array whose only axis, or only cut axis, is the rows.
    batch_size: number of rows; must divide over the devices that share them.

  Returns:
    Row numbers, ascending: the order in which JAX maps a process's rows to
    its devices.
  """
  held = sharding.addressable_devices_indices_map((batch_size,)).values()
  parts = [index[0] for index in held if index is not None]
  return sorted({row for part in parts for row in range(batch_size)[part]})
