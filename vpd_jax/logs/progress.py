"""One line that says how far a run is and when it ends.

    train vpd  step 1200/2400  50%  loss 0.412  1210 ex/s  eta 1:02

On a terminal the line is rewritten; elsewhere one is added every few seconds.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_EVERY_S = 0.1


class Progress:
  """Shows the progress of a loop over steps."""

  def __init__(
    self,
    name: str,
    total_steps: int,
    start_step: int = 0,
    *,
    stream: TextIO | None = None,
    every_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    is_active: bool = True,
  ):
    """Initialises; shows nothing yet.

    Args:
      name: what runs.
      total_steps: the last step.
      start_step: the step that the run goes on from.
      stream: to write to; None: stderr.
      every_s: seconds between lines where the stream is no terminal.
      clock: seconds from any origin.
      is_active: False shows nothing: of several processes, one does.
    """
    self._name, self._total_steps = name, total_steps
    self._stream = sys.stderr if stream is None else stream
    self._is_terminal = self._stream.isatty()
    self._every_s = _TERMINAL_EVERY_S if self._is_terminal else every_s
    self._clock, self._is_active = clock, is_active
    # Step and time that the rate is measured from: those of the first update
    # once there was one, for the time before has compilation in it.
    self._origin = (start_step, clock())
    self._has_updated = False
    self._shown_at: float | None = None

  def update(
    self, step: int, *, examples_per_s: float | None = None, **values: float
  ) -> None:
    """Shows the state after `step`, unless one was shown just before.

    Args:
      step: the last one done; the total is always shown.
      examples_per_s: shown if given.
      **values: shown as "name 0.412", in this order.
    """
    now = self._clock()
    eta = self._eta(step, now)
    if not self._has_updated:
      self._origin, self._has_updated = (step, now), True
    is_last = step >= self._total_steps
    is_due = self._shown_at is None or now - self._shown_at >= self._every_s
    if not self._is_active or not (is_due or is_last):
      return
    self._shown_at = now
    parts = [
      self._name,
      f"step {step}/{self._total_steps}",
      f"{100 * step // max(self._total_steps, 1)}%",
      *(f"{name} {value:.3f}" for name, value in values.items()),
    ]
    if examples_per_s is not None:
      parts.append(f"{examples_per_s:.0f} ex/s")
    parts.append(f"eta {eta}")
    self._show("  ".join(parts))

  def close(self) -> None:
    """Ends the line on a terminal."""
    if self._is_active and self._is_terminal and self._shown_at is not None:
      self._stream.write("\n")
      self._stream.flush()

  def _eta(self, step: int, now: float) -> str:
    first_step, first_time = self._origin
    if step >= self._total_steps:
      return "0:00"
    if step <= first_step:
      return "-"
    per_step = (now - first_time) / (step - first_step)
    return format_seconds(per_step * (self._total_steps - step))

  def _show(self, line: str) -> None:
    if self._is_terminal:
      width = shutil.get_terminal_size().columns
      self._stream.write(f"\r\x1b[K{line[: width - 1]}")
    else:
      self._stream.write(line + "\n")
    self._stream.flush()


def format_seconds(seconds: float) -> str:
  """Whole seconds as "m:ss", or "h:mm:ss" from an hour on."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{rest:02d}"
  return f"{minutes}:{rest:02d}"
