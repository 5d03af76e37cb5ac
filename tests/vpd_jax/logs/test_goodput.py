"""All seconds are some kind's, by a clock that the test moves."""

import pytest

from vpd_jax.logs import goodput


class _Clock:
  now = 10.0

  def __call__(self):
    return self.now


def test_kinds_add_up_to_all_time_and_the_inner_one_counts():
  clock = _Clock()
  spent = goodput.Goodput(clock=clock)
  clock.now += 1
  with spent.during("step"):
    clock.now += 2
    with spent.during("input"):
      clock.now += 4
    clock.now += 8
  clock.now += 16
  seconds = spent.seconds()
  assert seconds["step"] == 10 and seconds["input"] == 4
  assert seconds["other"] == 17
  assert sum(seconds.values()) == clock.now - 10.0


def test_an_error_does_not_leave_a_kind_running():
  clock = _Clock()
  spent = goodput.Goodput(clock=clock)
  with pytest.raises(KeyError):
    with spent.during("evaluation"):
      clock.now += 1
      raise KeyError
  clock.now += 5
  assert spent.seconds()["evaluation"] == 1
  assert spent.seconds()["other"] == 5


def test_a_run_that_goes_on_adds_to_what_it_had():
  clock = _Clock()
  first = goodput.Goodput(clock=clock)
  with first.during("compile"):
    clock.now += 3
  then = goodput.Goodput(first.seconds(), clock=clock)
  with then.during("compile"):
    clock.now += 4
  assert then.seconds()["compile"] == 7


def test_summary_names_the_largest_first_and_leaves_out_the_least():
  spent = goodput.Goodput({"step": 90, "input": 9.9, "compile": 0.1}, _Clock())
  assert spent.summary() == "step 90 %, input 10 % of 100 s"
