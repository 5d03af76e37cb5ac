"""Orders: epochs, shares, seeds; rows of processes."""

import collections

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


def test_rows_of_processes_make_up_the_batch():
  rows = [mixture.process_rows(12, i, 3) for i in range(3)]
  assert [list(r) for r in rows] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 10, 11],
  ]
  with pytest.raises(
    ValueError, match=r"batch_size=10 .* 4 processes; try 8 or"
  ):
    mixture.process_rows(10, 0, 4)
