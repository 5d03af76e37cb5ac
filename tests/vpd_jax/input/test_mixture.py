"""Orders: epochs, shares, seeds; rows of processes."""

import collections

import jax
import numpy as np
import pytest

from vpd_jax.input import mixture


def _take(order, count):
  return [order[i] for i in range(count)]


def test_each_epoch_is_a_new_shuffle_of_all():
  numbers = _take(mixture.order([50], [1.0], seed=0), 150)
  epochs = [numbers[i : i + 50] for i in (0, 50, 100)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 3
  assert len({tuple(epoch) for epoch in (*epochs, range(50))}) == 4


def test_seed_decides_the_order():
  first = _take(mixture.order([50], [1.0], seed=0), 50)
  assert _take(mixture.order([50], [1.0], seed=0), 50) == first
  assert _take(mixture.order([50], [1.0], seed=1), 50) != first


def test_shares_are_the_weights():
  order = mixture.order([10, 1000, 7], [1, 2, 1], seed=0)
  for start in (0, 333):
    counts = collections.Counter(
      (order[i] >= 10) + (order[i] >= 1010) for i in range(start, start + 400)
    )
    assert counts == {0: 100, 1: 200, 2: 100}


def test_data_sets_of_one_size_are_shuffled_differently():
  numbers = _take(mixture.order([20, 20], [1, 1], seed=0), 40)
  low = [n for n in numbers if n < 20]
  high = [n - 20 for n in numbers if n >= 20]
  assert sorted(low) == sorted(high) and low != high


@pytest.mark.parametrize(
  "sizes, weights, message",
  [
    ([0], [1.0], "data set 0 of the mixture has 0 records"),
    ([5, 5], [1.0, -1], "data set 1 .* weight -1"),
    ([5], [float("nan")], "weight nan"),
    ([5], [1, 1], "1 data sets and 2 weights"),
    ([], [], "at least one"),
  ],
)
def test_bad_mixtures_are_refused(sizes, weights, message):
  with pytest.raises(ValueError, match=message):
    mixture.order(sizes, weights, seed=0)


class _OnDevices:
  """A sharding as a process with these devices sees it."""

  def __init__(self, sharding, devices):
    self._sharding, self._devices = sharding, devices

  def addressable_devices_indices_map(self, shape):
    indices = self._sharding.devices_indices_map(shape)
    return {device: indices[device] for device in self._devices}


@pytest.mark.parametrize(
  "shape, axes, processes, rows",
  [
    # Each process has its own rows.
    ((8, 1), "data", [range(4), range(4, 8)], [[0, 1, 2, 3], [4, 5, 6, 7]]),
    # Axis "tensor" stays within a process, then crosses both.
    ((4, 2), "data", [range(4), range(4, 8)], [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ((2, 4), "data", [(0, 1, 4, 5), (2, 3, 6, 7)], [list(range(8))] * 2),
    ((1, 8), "data", [range(4), range(4, 8)], [list(range(8))] * 2),
    # Both axes cut rows; a process's rows need not be neighbours.
    ((2, 4), ("data", "tensor"), [(0, 1, 4, 5)], [[0, 1, 4, 5]]),
  ],
)
def test_rows_of_a_process_are_those_its_devices_hold(
  shape, axes, processes, rows
):
  devices = np.array(jax.devices())
  mesh = jax.sharding.Mesh(devices.reshape(shape), ("data", "tensor"))
  spec = jax.sharding.PartitionSpec(axes)
  sharding = jax.sharding.NamedSharding(mesh, spec)
  found = [
    mixture.rows_of(_OnDevices(sharding, devices[list(process)]), 8)
    for process in processes
  ]
  assert found == rows
  assert mixture.rows_of(sharding, 8) == list(range(8))
