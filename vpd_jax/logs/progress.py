"""One line that says how far a run is and when it ends.

    train vpd  step 1200/2400  50%  loss 0.412  1210 ex/s  eta 1:02

On a terminal the line is rewritten; elsewhere one is added every few seconds.
"""

import time
from collections.abc import Callable
from typing import TextIO

from vpd_jax.logs import line


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
    self._line = line.Line(stream, every_s=every_s, clock=clock)
    self._clock, self._is_active = clock, is_active
    # Step and time that the rate is measured from: those of the first update
    # once there was one, for the time before has compilation in it.
    self._origin = (start_step, clock())
    self._has_updated = False

  def update(
    self, step: int, *, examples_per_s: float | None = None, **values: float
  ) -> None:
    """Shows the state after `step`, unless one was shown just before.

    Args:
      step: the last one done; the first and the total are always shown.
      examples_per_s: shown if given.
      **values: shown as "name 0.412", in this order.
    """
    now = self._clock()
    eta = self._eta(step, now)
    is_first = not self._has_updated
    if is_first:
      self._origin, self._has_updated = (step, now), True
    is_last = step >= self._total_steps
    if not self._is_active or not (is_first or is_last or self._line.is_due()):
      return
    parts = [
      self._name,
      f"step {step}/{self._total_steps}",
      f"{100 * step // max(self._total_steps, 1)}%",
      *(f"{name} {value:.3f}" for name, value in values.items()),
    ]
    if examples_per_s is not None:
      parts.append(f"{examples_per_s:.0f} ex/s")
    parts.append(f"eta {eta}")
    self._line.show("  ".join(parts))

  def close(self) -> None:
    """Ends the line on a terminal."""
    self._line.close()

  def _eta(self, step: int, now: float) -> str:
    first_step, first_time = self._origin
    if step >= self._total_steps:
      return "0:00"
    if step <= first_step:
      return "-"
    per_step = (now - first_time) / (step - first_step)
    return line.format_seconds(per_step * (self._total_steps - step))
