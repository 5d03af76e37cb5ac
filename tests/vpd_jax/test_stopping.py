"""The first signal is noted; the second finds the system's own handler."""

import os
import signal
import sys
import threading

import pytest

from vpd_jax import stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_is_noted_and_the_second_would_end_all(number, capfd):
  before = {each: signal.getsignal(each) for each in stopping.SIGNALS}
  with stopping.Watch() as stop:
    assert stop.number is None
    os.kill(os.getpid(), number)
    assert stop.number == number
    for each in stopping.SIGNALS:
      assert signal.getsignal(each) == signal.SIG_DFL
  assert {each: signal.getsignal(each) for each in before} == before
  message = capfd.readouterr().err
  assert message.startswith(signal.Signals(number).name)
  assert "another one ends at once" in message


def test_a_signal_while_something_is_printed(monkeypatch):
  """As where it comes inside of a print: a second one there is refused."""

  class Busy:
    def write(self, _):
      raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    flush = write

  monkeypatch.setattr(sys, "stderr", Busy())
  with stopping.Watch() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM


def _asked(step_s, num_steps, flags=lambda step: (0.0, 0.0)):
  """Steps where two processes of equal steps, but other clocks, were asked."""
  said, asked = {}, {}
  for number in (0, 1):  # The second hears what the first said there.
    now = [0.0]

    def gather(pair, number=number, now=now):
      step = round((now[0] / (1 + number)) / step_s)
      said[step, number] = (flags(step)[number], pair[1])
      first = said[step, 0]
      return [first, (flags(step)[1], pair[1])]

    together = stopping.Together(gather, clock=lambda now=now: now[0])
    asked[number] = []
    for step in range(1, num_steps + 1):
      now[0] = step * step_s * (1 + number)
      before = len(said)
      does = together.ask(step, bool(flags(step)[number]))
      if len(said) > before:
        asked[number].append((step, does))
  return asked


@pytest.mark.parametrize(
  "step_s,num_steps,expected",
  [
    (20.0, 4, [1, 2, 3, 4]),
    (2.0, 8, [1, 3, 5, 7]),
    (0.1, 120, [1, 11, 61, 111]),
    (0.001, 8000, [1, 11, 111, 1111, 6111]),
  ],
)
def test_processes_are_asked_every_few_seconds_by_the_first_ones_clock(
  step_s, num_steps, expected
):
  asked = _asked(step_s, num_steps)
  assert asked[0] == [(step, False) for step in expected]
  assert asked[1] == asked[0]


def test_any_process_ends_all_at_one_step():
  asked = _asked(0.1, 70, lambda step: (0.0, float(step >= 30)))
  assert asked[0] == asked[1] == [(1, False), (11, False), (61, True)]


def test_a_thread_may_train_and_hears_nothing():
  found = []

  def run():
    with stopping.Watch() as stop:
      found.append(stop.number)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found == [None]


def test_exit_codes_are_a_shells():
  assert stopping.Stopped(signal.SIGTERM, "").exit_code == 143
  assert stopping.Stopped(signal.SIGINT, "").exit_code == 130
