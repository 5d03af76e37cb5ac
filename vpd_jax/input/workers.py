"""Batches made ahead of the step, by threads or by other processes.

Threads share one interpreter: what they do outside of it (decode, resize,
checksum) runs side by side, what they do in it does not. Processes share
nothing, and give arrays back through shared memory. What comes is the same.
"""

import multiprocessing
import os
import signal
import sys
import threading
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

Batch = dict[str, Any]

# Batches that threads hold ready. Processes hold one each, and one on its way.
_AHEAD = 4


class BatchSource(Protocol):
  """Batches by number, endless; pickled to reach other processes."""

  def __getitem__(self, number: int) -> Batch:
    """This process's rows of global batch `number`, counted from 0."""
    ...

  def example_ids(self, number: int) -> list[str]:
    """Names of all rows of global batch `number`."""
    ...


def iterate(
  source: BatchSource, start: int, *, num_threads: int, num_workers: int
) -> "Batches":
  """Batches `start`, `start + 1` and on; nothing runs before the first `next`.

  Args:
    source: of the batches.
    start: number of the first.
    num_threads: that make batches ahead, in each process that makes any; 0:
      when they are asked for.
    num_workers: processes that make batches in turn; 0: this one does. They
      start as Python does, and import what `source` needs.

  Returns:
    The batches; its `close` ends threads and processes. What `source` raises
    comes out at its place.
  """
  read = grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=max(1, num_threads) if num_workers else _AHEAD,
  )
  dataset = grain.MapDataset.source(_From(source, start)).to_iter_dataset(read)
  if num_workers:
    # grain looks at flags of its own, also in programs that have none.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(
      num_workers=num_workers, per_worker_buffer_size=1
    )
    dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
  return Batches(iter(dataset), num_workers)


class Batches:
  """A grain iterator that names what ends a worker."""

  def __init__(self, iterator: grain.DatasetIterator, num_workers: int):
    self._iterator, self._num_workers = iterator, num_workers

  def __next__(self) -> Batch:
    """The next batch.

    Raises:
      ChildProcessError: if a worker was killed.
      Exception: what the source raised.
    """
    try:
      batch = next(self._iterator)
    except RuntimeError as e:
      if "terminated unexpectedly" not in str(e):
        raise
      raise ChildProcessError(
        f"one of the {self._num_workers} processes of input.num_workers ended"
        f" without a result. grain says: {e} Exit code -9 is a kill, most often"
        " for want of memory; -7 that shared memory is full: /dev/shm has"
        f" {_shared_memory()}. Set fewer workers, or give the machine more."
      ) from e
    if self._num_workers:
      # Out of shared memory, which is scarce, and ends with this process.
      batch = {key: np.array(x) for key, x in batch.items()}
    return batch

  def close(self) -> None:
    """Ends threads and processes."""
    self._iterator.close()


def _shared_memory() -> str:
  try:
    found = os.statvfs("/dev/shm")
  except OSError:
    return "an unknown size"
  free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
  return f"{free / 1e6:.0f} of {size / 1e6:.0f} MB free"


class _From:
  """The source from one of its batches on, as grain wants it."""

  def __init__(self, source: BatchSource, start: int):
    self._source, self._start = source, start

  def __len__(self) -> int:
    return sys.maxsize - self._start

  def __getitem__(self, index: int) -> Batch:
    return self._source[self._start + index]

  def __repr__(self) -> str:
    return f"batches from {self._start} on"


def _start_worker(index: int, count: int) -> None:
  """In a new process: its life is its parent's, whatever signals come."""
  del index, count
  # A terminal and a cluster send them to all; the parent ends in its own time.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
