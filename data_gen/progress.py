"""One progress line per stage on stderr: done, total, rate, time left."""

import sys
import time
from typing import TextIO

_TTY_PERIOD_S = 0.2
_LOG_PERIOD_S = 5.0
_BAR_WIDTH = 20


class Progress:
  """Shows how far a stage is; rewritten on a terminal, else a line at times.

  Args:
    name: of the stage.
    total: how many rows it will make; None if nobody knows yet.
    num_shards: how many shards it will make; the measure without a total.
    file: where to write; stderr by default.
  """

  def __init__(
    self,
    name: str,
    total: int | None,
    num_shards: int,
    file: TextIO | None = None,
  ):
    self._name = name
    self._total = total
    self._num_shards = num_shards
    self._file = file or sys.stderr
    self._is_tty = self._file.isatty()
    self._rows = 0
    self._shards = 0
    self._start = time.monotonic()
    self._last = self._start

  def add(self, rows: int = 0, shards: int = 0) -> None:
    """Counts finished rows and shards."""
    self._rows += rows
    self._shards += shards
    period = _TTY_PERIOD_S if self._is_tty else _LOG_PERIOD_S
    now = time.monotonic()
    if now - self._last >= period:
      self._last = now
      self._show(self.line(now - self._start))

  def finish(self) -> None:
    """Writes the last line: rows and seconds in all."""
    seconds = time.monotonic() - self._start
    self._show(f"{self._name:<12}{self._rows} rows in {seconds:.1f} s")
    if self._is_tty:
      self._file.write("\n")
      self._file.flush()

  def line(self, seconds: float) -> str:
    """The line after `seconds` of work."""
    rate = self._rows / max(seconds, 1e-9)
    if self._total:
      share = self._rows / self._total
      done = f"{self._rows}/{self._total} rows"
    else:
      share = self._shards / self._num_shards if self._num_shards else 0.0
      done = f"{self._rows} rows, {self._shards}/{self._num_shards} shards"
    share = min(1.0, share)
    bar = ("#" * int(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
    left = _clock(seconds / share - seconds) if share else "?"
    return f"{self._name:<12}[{bar}] {done}  {rate:.0f}/s  eta {left}"

  def _show(self, text: str) -> None:
    if self._is_tty:
      self._file.write(f"\r\x1b[2K{text}")
    else:
      self._file.write(f"{text}\n")
    self._file.flush()


def _clock(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  return f"{minutes}:{rest:02d}"
