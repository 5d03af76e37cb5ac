"""The first signal is noted; the second finds the system's own handler."""

import os
import signal
import threading

import pytest

from vpd_jax import stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_is_noted_and_the_second_would_end_all(number, capsys):
  before = {each: signal.getsignal(each) for each in stopping.SIGNALS}
  with stopping.Watch() as stop:
    assert stop.number is None
    os.kill(os.getpid(), number)
    assert stop.number == number
    for each in stopping.SIGNALS:
      assert signal.getsignal(each) == signal.SIG_DFL
  assert {each: signal.getsignal(each) for each in before} == before
  message = capsys.readouterr().err
  assert message.startswith(signal.Signals(number).name)
  assert "another one ends at once" in message


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
