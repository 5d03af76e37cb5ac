"""Rates by a clock that the test moves."""

import pytest

from vpd_jax.logs import goodput, mfu, throughput


class _Clock:
  now = 100.0

  def __call__(self):
    return self.now


def _make(batch_size=32, peak=None, devices=2):
  clock = _Clock()
  spent = goodput.Goodput(clock=clock)
  flops = mfu.StepFlops(model=4e12, hardware=6e12)
  rates = throughput.Throughput(
    spent, batch_size, flops, devices=devices, peak=peak
  )
  return clock, spent, rates


def _spend(clock, spent, kind, seconds):
  with spent.during(kind):
    clock.now += seconds


def test_only_steps_and_waits_for_input_count():
  clock, spent, rates = _make()
  _spend(clock, spent, "compile", 50)
  for _ in range(4):
    _spend(clock, spent, "input", 0.1)
    _spend(clock, spent, "step", 0.4)
    rates.step({"tokens": 100.0})
  _spend(clock, spent, "evaluation", 60)
  _spend(clock, spent, "checkpoint", 5)
  assert rates.read() == {
    "seconds_per_step": pytest.approx(0.5),
    "examples_per_s": pytest.approx(64),
    "target_tokens_per_s": pytest.approx(200),
    "input_wait_share": pytest.approx(0.2),
    # 4 TFLOP a step on two devices, two steps a second.
    "model_tflops_per_s_per_device": pytest.approx(4.0),
    "hardware_tflops_per_s_per_device": pytest.approx(6.0),
  }


def test_rates_are_since_the_last_read():
  clock, spent, rates = _make()
  for seconds in (1.0, 4.0):
    _spend(clock, spent, "step", seconds)
    rates.step({})
    found = rates.read()
    assert found["seconds_per_step"] == pytest.approx(seconds)
    assert "target_tokens_per_s" not in found
  assert rates.read() == {}


def test_share_of_the_peak_where_it_is_known():
  clock, spent, rates = _make(peak=8e12)
  _spend(clock, spent, "step", 1.0)
  rates.step({})
  found = rates.read()
  assert found["mfu"] == pytest.approx(4 / 16)
  assert found["hfu"] == pytest.approx(6 / 16)
