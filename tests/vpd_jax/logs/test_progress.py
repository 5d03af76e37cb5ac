"""What the line of a run says, how often it comes, and the time left."""

import io

from vpd_jax.logs import progress


class _Clock:
  now = 0.0

  def __call__(self):
    return self.now


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _run(stream, times, total=2400, start=0, **options):
  """Updates every 600 steps at the given seconds."""
  clock = _Clock()
  bar = progress.Progress(
    "train vpd", total, start, stream=stream, clock=clock, **options
  )
  for number, now in enumerate(times, start=1):
    clock.now = now
    step = start + 600 * number
    bar.update(step, examples_per_s=1209.6, loss=0.41249)
  bar.close()
  return stream.getvalue()


def test_line_says_all():
  # 60 s of compilation, then 31 s for 600 steps: 1200 left take 62 s.
  lines = _run(io.StringIO(), [90, 121]).splitlines()
  assert lines[1] == (
    "train vpd  step 1200/2400  50%  loss 0.412  1210 ex/s  eta 1:02"
  )
  assert lines[0].endswith("25%  loss 0.412  1210 ex/s  eta 4:30")


def test_eta_counts_from_the_step_that_the_run_goes_on_from():
  lines = _run(io.StringIO(), [10, 20, 30], start=600).splitlines()
  assert [line.split("eta ")[1] for line in lines] == ["0:20", "0:10", "0:00"]


def test_lines_come_every_few_seconds_and_at_the_end():
  times = [1, 2, 5.9, 6.1]
  lines = _run(io.StringIO(), times, total=10_000).splitlines()
  assert [line.split()[3] for line in lines] == ["600/10000", "2400/10000"]
  lines = _run(io.StringIO(), [1, 2, 2.1, 2.2]).splitlines()
  assert [line.split()[3] for line in lines] == ["600/2400", "2400/2400"]


def test_a_terminal_has_one_line_rewritten():
  text = _run(_Terminal(), [1, 2, 3])
  assert text.count("\r\x1b[K") == 3
  assert text.count("\n") == 1 and text.endswith("\n")


def test_a_long_line_does_not_wrap(monkeypatch):
  monkeypatch.setenv("COLUMNS", "29")
  text = _run(_Terminal(), [1])
  assert text == "\r\x1b[Ktrain vpd  step 600/2400  25\n"


def test_an_inactive_bar_shows_nothing():
  assert _run(io.StringIO(), [1, 10, 20, 30], is_active=False) == ""
