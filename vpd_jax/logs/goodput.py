"""Where a run's time goes: one clock that is always running for some kind.

    with clock.during("checkpoint"):
      store.save(...)

Seconds of all kinds add up to the time since the clock was made, and to that
of the processes before, where a run goes on. What a killed process did after
its last checkpoint is not in it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

# "input" is the time that the loop waited for a batch, "step" that of training
# itself; "other" is all that is not named, such as starting.
KINDS = ("compile", "input", "step", "checkpoint", "evaluation", "other")


class Goodput:
  """Seconds by kind."""

  def __init__(
    self,
    seconds: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts, with "other".

    Args:
      seconds: those of the run's earlier processes; from `seconds`.
      clock: seconds from any origin.
    """
    self._clock = clock
    self._kind, self._since = "other", clock()
    self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    self.add(seconds or {})

  def add(self, seconds: Mapping[str, float]) -> None:
    """Adds those of earlier processes."""
    for kind, spent in seconds.items():
      self._seconds[kind] += spent

  @contextlib.contextmanager
  def during(self, kind: str) -> Iterator[None]:
    """Counts as `kind` inside; then as before. May be nested."""
    before = self._switch(kind)
    try:
      yield
    finally:
      self._switch(before)

  def seconds(self) -> dict[str, float]:
    """Kind -> seconds until now; JSON-safe."""
    self._switch(self._kind)
    return dict(self._seconds)

  def summary(self) -> str:
    """One line, such as "step 83 %, compile 12 %, input 5 % of 42 s"."""
    seconds = self.seconds()
    total = sum(seconds.values())
    by_size = sorted(seconds.items(), key=lambda item: -item[1])
    shares = [
      f"{kind} {100 * spent / max(total, 1e-9):.0f} %"
      for kind, spent in by_size
      if spent > 0.005 * total
    ]
    return f"{', '.join(shares)} of {total:.0f} s"

  def _switch(self, kind: str) -> str:
    assert kind in KINDS, kind
    now = self._clock()
    self._seconds[self._kind] += now - self._since
    before, self._kind, self._since = self._kind, kind, now
    return before
