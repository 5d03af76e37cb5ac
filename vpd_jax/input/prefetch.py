"""Batches on the mesh before the step asks for them."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

Batch = dict[str, Any]


class Stateful(Protocol):
  """Batches with a position, as `pipeline.TrainBatches`."""

  def __next__(self) -> Batch: ...

  def get_state(self) -> dict[str, Any]:
    """Position after the batches given out so far."""
    ...


class DevicePrefetch:
  """Iterator over batches that a thread reads and puts ahead.

  with prefetch_to_device(batches, put) as ahead:
    batch = next(ahead)
  """

  def __init__(
    self, batches: Stateful, put: Callable[[Batch], Batch], depth: int
  ):
    self._batches, self._put = batches, put
    self._ready: queue.Queue = queue.Queue()
    # One for each batch that may be read and not yet be taken.
    self._room = threading.Semaphore(depth)
    self._is_closed = threading.Event()
    self._state = batches.get_state()
    self._error: BaseException | None = None
    self._thread = threading.Thread(
      target=self._run, name="prefetch-to-device", daemon=True
    )
    self._thread.start()

  def __iter__(self) -> "DevicePrefetch":
    return self

  def __next__(self) -> Batch:
    """The next batch, on the mesh.

    Raises:
      Exception: what reading or putting this batch raised; again if asked
        again.
      ValueError: if it is closed.
    """
    if self._is_closed.is_set():
      raise ValueError("no batch can be taken after close()")
    if self._error is None:
      batch, state, self._error = self._ready.get()
      self._room.release()
      if self._error is None:
        self._state = state
        return batch
    raise self._error

  def get_state(self) -> dict[str, Any]:
    """Position after the batches taken, whatever was read ahead."""
    return self._state

  def close(self, timeout_s: float = 5.0) -> None:
    """Stops the thread; waits for the batch that it has in hand.

    Args:
      timeout_s: it waits at most. The thread ends with the process anyway.
    """
    self._is_closed.set()
    self._room.release()
    self._thread.join(timeout_s)
    self._ready = queue.Queue()  # Lets go of the batches on the mesh.

  def __enter__(self) -> "DevicePrefetch":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _run(self) -> None:
    ready = self._ready
    while True:
      self._room.acquire()
      if self._is_closed.is_set():
        return
      try:
        batch = next(self._batches)
        item = (self._put(batch), self._batches.get_state(), None)
      except BaseException as e:  # Whatever it is, the consumer gets it.
        ready.put((None, None, e))
        return
      ready.put(item)


def prefetch_to_device(
  batches: Stateful, put: Callable[[Batch], Batch], depth: int = 2
) -> DevicePrefetch:
  """Reads batches and puts them on the mesh in a thread, ahead of the step.

  Args:
    batches: from their present position on; the thread's from now on.
    put: arrays of this process -> arrays on the mesh.
    depth: batches at most that were read and not yet taken.

  Raises:
    ValueError: if depth is not above 0.
  """
  if depth < 1:
    raise ValueError(f"depth={depth} of prefetch_to_device must be above 0")
  return DevicePrefetch(batches, put, depth)
