"""Rates and seconds by a clock that the test moves."""

import pytest

from vpd_jax.logs import throughput


class _Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_pauses_do_not_count():
  clock = _Clock()
  stopwatch = throughput.Throughput(32, clock)
  clock.now += 50  # Compilation.
  stopwatch.start()
  for _ in range(4):
    clock.now += 0.5
    stopwatch.step()
  stopwatch.pause()
  clock.now += 60  # An evaluation.
  assert stopwatch.take_seconds() == pytest.approx(2.0)
  stopwatch.resume()
  clock.now += 1
  assert stopwatch.take_seconds() == pytest.approx(1.0)
  assert stopwatch.read() == {
    "seconds_per_step": pytest.approx(3 / 4),
    "examples_per_s": pytest.approx(4 * 32 / 3),
  }


def test_rates_are_since_the_last_read():
  clock = _Clock()
  stopwatch = throughput.Throughput(10, clock)
  stopwatch.start()
  for seconds in (1.0, 4.0):
    clock.now += seconds
    stopwatch.step()
    assert stopwatch.read()["seconds_per_step"] == pytest.approx(seconds)
  assert stopwatch.read() == {}


def test_start_and_pause_twice_are_as_once():
  clock = _Clock()
  stopwatch = throughput.Throughput(1, clock)
  stopwatch.pause()
  stopwatch.start()
  clock.now += 1
  stopwatch.start()
  clock.now += 1
  stopwatch.pause()
  clock.now += 1
  stopwatch.pause()
  assert stopwatch.take_seconds() == pytest.approx(2.0)
