"""SIGTERM and SIGINT ask a run to stop at the end of a step."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
  """The run was asked to stop, has saved, and can go on from there."""

  def __init__(self, number: int, message: str):
    super().__init__(message)
    self.exit_code = 128 + number


class Watch:
  """While it is open, the first signal is noted and a second one ends all.

  Outside of the main thread no signal arrives, and it notes none.

  Attributes:
    number: of the signal that came; None: none did.
  """

  def __init__(self):
    self.number: int | None = None
    self._before: dict[int, object] = {}

  def __enter__(self) -> "Watch":
    if threading.current_thread() is threading.main_thread():
      for number in SIGNALS:
        self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

  def _note(self, number: int, _: FrameType | None) -> None:
    self.number = number
    for each in SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    name = signal.Signals(number).name
    # `print` may be under way in what this interrupts, and refuses then.
    os.write(
      2,
      f"{name}: saving at the end of this step; another one ends at once.\n".encode(),
    )


class Together:
  """Asks all processes now and then whether to stop, at steps they agree on.

  Asking waits for a step to end. So it is done about every few seconds by the
  clock of process 0, whose word all take: at every step where steps are slow.
  """

  def __init__(
    self,
    gather: Callable[[tuple[float, float]], Any],
    *,
    every_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Asks at the first step, and learns there how long one takes.

    Args:
      gather: a pair of this process -> those of all, float[P, 2].
      every_s: seconds from one question to the next.
      clock: seconds from any origin.
    """
    self._gather, self._every_s, self._clock = gather, every_s, clock
    self._asked_step: int | None = None
    self._asked_s, self._steps = clock(), 1

  def ask(self, at_step: int, flag: bool) -> bool:
    """Whether any process says so; False where it is not asked.

    Args:
      at_step: all processes call it at the same steps, one by one.
      flag: what this process says.
    """
    if self._asked_step is None:
      self._asked_step = at_step - 1
    done = at_step - self._asked_step
    if done < self._steps:
      return False
    now = self._clock()
    said = self._gather((float(flag), now - self._asked_s))
    seconds = max(float(said[0][1]), 1e-9)
    # Ten times as many at most: the first steps may not be like the others.
    self._steps = max(1, min(int(done * self._every_s / seconds), 10 * done))
    self._asked_step, self._asked_s = at_step, now
    return any(bool(each[0]) for each in said)
