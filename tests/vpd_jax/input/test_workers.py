"""Other processes make the same batches; what goes wrong there is named."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from vpd_jax.input import pipeline, tasks, tokens

_LENGTHS = tasks.Lengths(prompt=20, label=4, rationale=12)


@pytest.fixture
def folder(write_split, make_record):
  """Eleven questions about four pictures."""
  pictures = [make_record(i)["image"] for i in range(4)]
  made = [
    make_record(i, image_id=f"i{i % 4}", image=pictures[i % 4])
    for i in range(11)
  ]
  return write_split(records=made)


def _batches(folder, **options):
  return pipeline.train_batches(
    [{"dir": folder, "split": "train"}],
    tokens.load(),
    _LENGTHS,
    4,
    seed=0,
    image_px=8,
    questions_per_image=2,
    **options,
  )


def test_workers_make_the_same_batches_and_pass_errors_on(folder):
  here = _batches(folder, num_threads=0)
  for _ in range(3):
    next(here)
  there = _batches(folder, num_workers=2)
  there.set_state(here.get_state())
  for _ in range(5):
    expected, found = next(here), next(there)
    # Plain memory: what holds it longer must not hold shared memory.
    assert {type(rows) for rows in found.values()} == {np.ndarray}
    assert found.keys() == expected.keys()
    for key, rows in found.items():
      np.testing.assert_array_equal(rows, expected[key], key)
  assert there.get_state() == here.get_state()
  for path in folder.iterdir():
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
  with pytest.raises(ValueError, match=r"toy-train.* is damaged at record"):
    for _ in range(20):
      next(there)
  there.close()
  assert not multiprocessing.active_children()


def test_a_killed_worker_is_named(folder):
  batches = _batches(folder, num_workers=1)
  next(batches)
  (worker,) = multiprocessing.active_children()
  # A signal for all does not end it: its parent may still need it.
  os.kill(worker.pid, signal.SIGTERM)
  next(batches)
  assert worker.is_alive()
  # Killed as it makes shared memory, it would leave that behind for good.
  time.sleep(0.5)
  os.kill(worker.pid, signal.SIGKILL)
  start = time.monotonic()
  message = "one of the 1 processes of input.num_workers .* code -9"
  with pytest.raises(ChildProcessError, match=message):
    for _ in range(10):
      next(batches)
  assert time.monotonic() - start < 30
  batches.close()


def test_cache_and_workers_exclude_each_other(folder):
  with pytest.raises(
    ValueError, match=r"input.num_workers=2 makes them in oth"
  ):
    _batches(folder, num_workers=2, cache=True)
