"""Read ahead: at most so far, errors at their place, the state of what came."""

import threading
import time

import pytest

from vpd_jax.input import pipeline, prefetch, tasks, tokens


class _Numbers:
  """Counts; raises at one number; says how many it gave out."""

  def __init__(self, fails_at=None, seconds=0.0):
    self.given, self._fails_at, self._seconds = 0, fails_at, seconds

  def __next__(self):
    time.sleep(self._seconds)
    if self.given == self._fails_at:
      raise ValueError(f"no number {self.given}")
    self.given += 1
    return {"number": self.given - 1}

  def get_state(self):
    return {"position": self.given}


def _put(batch):
  return {"number": batch["number"] * 10}


def _wait_for(condition):
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  assert condition()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_batches_come_in_order_and_no_more_than_depth_ahead(depth):
  source = _Numbers()
  with prefetch.prefetch_to_device(source, _put, depth) as ahead:
    for taken in range(6):
      _wait_for(lambda taken=taken: source.given >= taken + depth)
      time.sleep(0.02)
      assert source.given == taken + depth
      assert ahead.get_state() == {"position": taken}
      assert next(ahead) == {"number": taken * 10}
  assert ahead.get_state() == {"position": 6}


def test_errors_come_at_their_place_and_stay():
  with prefetch.prefetch_to_device(_Numbers(fails_at=2), _put, 4) as ahead:
    assert [next(ahead)["number"] for _ in range(2)] == [0, 10]
    for _ in range(2):
      with pytest.raises(ValueError, match="no number 2"):
        next(ahead)
    assert ahead.get_state() == {"position": 2}


def test_an_error_of_put_comes_too():
  def put(batch):
    raise RuntimeError(f"no room for {batch['number']}")

  with (
    prefetch.prefetch_to_device(_Numbers(), put) as ahead,
    pytest.raises(RuntimeError, match="no room for 0"),
  ):
    next(ahead)


def test_closing_stops_the_thread():
  source = _Numbers()
  ahead = prefetch.prefetch_to_device(source, _put)
  next(ahead)
  ahead.close()
  names = [thread.name for thread in threading.enumerate()]
  assert "prefetch-to-device" not in names
  given = source.given
  time.sleep(0.05)
  assert source.given == given
  with pytest.raises(ValueError, match="after close"):
    next(ahead)


def test_a_run_goes_on_after_the_batches_it_took(write_split):
  def batches():
    return pipeline.train_batches(
      [{"dir": folder, "split": "train"}],
      tokens.load(),
      tasks.Lengths(prompt=20, label=4, rationale=12),
      4,
      seed=0,
      image_px=8,
    )

  def put(batch):
    return batch["label_target"].tolist()

  folder = write_split(7)
  plain = batches()
  expected = [put(next(plain)) for _ in range(8)]
  with prefetch.prefetch_to_device(batches(), put, 3) as ahead:
    assert [next(ahead) for _ in range(3)] == expected[:3]
    state = ahead.get_state()
  resumed = batches()
  resumed.set_state(state)
  with prefetch.prefetch_to_device(resumed, put, 3) as ahead:
    assert [next(ahead) for _ in range(5)] == expected[3:]


def test_depth_must_be_positive():
  with pytest.raises(ValueError, match="depth=0"):
    prefetch.prefetch_to_device(_Numbers(), _put, 0)
