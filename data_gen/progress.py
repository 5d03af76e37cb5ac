"""One progress line per stage on stderr: done, total, rate, time left."""

import time
from typing import TextIO

from vpd_jax.logs import line

_BAR_WIDTH = 20


class Progress:
  """Shows how far a stage is; rewritten on a terminal, else a line at times.

  Args:
    name: of the stage.
    total: how many rows it will make; None if nobody knows yet.
    num_shards: how many shards it will make; the measure without a total.
    stream: to write to; None: stderr.
  """

  def __init__(
    self,
    name: str,
    total: int | None,
    num_shards: int,
    stream: TextIO | None = None,
  ):
    self._name = name
    self._total = total
    self._num_shards = num_shards
    self._line = line.Line(stream)
    self._rows = 0
    self._shards = 0
    self._start = time.monotonic()

  def add(self, rows: int = 0, shards: int = 0) -> None:
    """Counts finished rows and shards."""
    self._rows += rows
    self._shards += shards
    if self._line.is_due():
      self._line.show(self.line(time.monotonic() - self._start))

  def finish(self) -> None:
    """Writes the last line: rows and seconds in all."""
    seconds = time.monotonic() - self._start
    self._line.show(f"{self._name:<12}{self._rows} rows in {seconds:.1f} s")
    self._line.close()

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
    left = line.format_seconds(seconds / share - seconds) if share else "?"
    return f"{self._name:<12}[{bar}] {done}  {rate:.0f}/s  eta {left}"
