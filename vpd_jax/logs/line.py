"""A line of text that is rewritten on a terminal and repeated in a log.

Needs nothing beyond the standard library, so data_gen uses it too.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_EVERY_S = 0.1


class Line:
  """Rewrites its line on a terminal; elsewhere adds one every few seconds."""

  def __init__(
    self,
    stream: TextIO | None = None,
    *,
    every_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Initialises; shows nothing yet.

    Args:
      stream: to write to; None: stderr.
      every_s: seconds between lines where the stream is no terminal.
      clock: seconds from any origin.
    """
    self._stream = sys.stderr if stream is None else stream
    self._is_terminal = self._stream.isatty()
    self._every_s = _TERMINAL_EVERY_S if self._is_terminal else every_s
    self._clock = clock
    self._last = clock()
    self._is_open = False

  def is_due(self) -> bool:
    """Whether the last one, or the start, is long enough ago."""
    return self._clock() - self._last >= self._every_s

  def show(self, text: str) -> None:
    """Shows `text` now; a terminal gets as much of it as fits its width."""
    self._last = self._clock()
    if self._is_terminal:
      self._is_open = True
      width = shutil.get_terminal_size().columns
      self._stream.write(f"\r\x1b[K{text[: width - 1]}")
    else:
      self._stream.write(text + "\n")
    self._stream.flush()

  def close(self) -> None:
    """Ends the line on a terminal."""
    if self._is_open:
      self._is_open = False
      self._stream.write("\n")
      self._stream.flush()


def format_seconds(seconds: float) -> str:
  """Whole seconds as "m:ss", or "h:mm:ss" from an hour on."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{rest:02d}"
  return f"{minutes}:{rest:02d}"
