"""How fast a run steps: a stopwatch that can be paused for other work."""

import time
from collections.abc import Callable


class Throughput:
  """Counts steps and the seconds they took.

  Steps are dispatched ahead of the device: wait for a step's metrics before
  `read`, or the figures are of the dispatch.
  """

  def __init__(
    self, batch_size: int, clock: Callable[[], float] = time.perf_counter
  ):
    """Stands still until `start`.

    Args:
      batch_size: examples in a global batch.
      clock: seconds from any origin.
    """
    self._batch_size, self._clock = batch_size, clock
    self._since: float | None = None
    self._seconds = 0.0
    self._steps = 0
    self._at_read = (0.0, 0)
    self._at_take = 0.0

  def start(self) -> None:
    """Starts or goes on; no effect while it runs."""
    if self._since is None:
      self._since = self._clock()

  resume = start

  def pause(self) -> None:
    """Stops, as for an evaluation; no effect while it stands still."""
    if self._since is not None:
      self._seconds += self._clock() - self._since
      self._since = None

  def step(self) -> None:
    """Counts a step."""
    self._steps += 1

  def read(self) -> dict[str, float]:
    """Rates since the last `read`; empty if no step was counted."""
    seconds, steps = self._elapsed(), self._steps
    seconds_then, steps_then = self._at_read
    self._at_read = (seconds, steps)
    seconds, steps = seconds - seconds_then, steps - steps_then
    if not steps or seconds <= 0:
      return {}
    return {
      "seconds_per_step": seconds / steps,
      "examples_per_s": steps * self._batch_size / seconds,
    }

  def take_seconds(self) -> float:
    """Seconds since the last `take_seconds`, pauses left out."""
    seconds = self._elapsed()
    taken, self._at_take = seconds - self._at_take, seconds
    return taken

  def _elapsed(self) -> float:
    running = 0.0 if self._since is None else self._clock() - self._since
    return self._seconds + running
