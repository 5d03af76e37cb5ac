"""When a line is due, and how a terminal and a log differ."""

import io

import pytest

from vpd_jax.logs import line


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_it_is_due_some_time_after_the_start_and_after_the_last():
  now = [0.0]
  shown = line.Line(io.StringIO(), every_s=5, clock=lambda: now[0])
  found = []
  for now[0] in (0, 4.9, 5, 6, 9.9, 10):
    found.append(shown.is_due())
    if found[-1]:
      shown.show("x")
  assert found == [False, False, True, False, False, True]


def test_a_log_gets_whole_lines():
  stream = io.StringIO()
  shown = line.Line(stream)
  shown.show("a" * 500)
  shown.show("b")
  shown.close()
  assert stream.getvalue() == "a" * 500 + "\nb\n"


def test_a_terminal_gets_one_line_that_ends_once(monkeypatch):
  monkeypatch.setenv("COLUMNS", "4")
  stream = _Terminal()
  shown = line.Line(stream)
  shown.close()
  shown.show("abcde")
  shown.show("b")
  shown.close()
  shown.close()
  assert stream.getvalue() == "\r\x1b[Kabc\r\x1b[Kb\n"


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0, "0:00"),
    (59.6, "1:00"),
    (62, "1:02"),
    (3599, "59:59"),
    (7384, "2:03:04"),
  ],
)
def test_seconds_are_written_as_a_clock_does(seconds, text):
  assert line.format_seconds(seconds) == text
