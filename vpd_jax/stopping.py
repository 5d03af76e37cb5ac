"""SIGTERM and SIGINT ask a run to stop at the end of a step."""

import signal
import sys
import threading
from types import FrameType

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
    print(
      f"{name}: saving at the end of this step; another one ends at once.",
      file=sys.stderr,
      flush=True,
    )
