"""Runs a stage's shards in worker processes, or in this one.

Each process keeps the open `Worker` of the current stage. Processes are
spawned, not forked, so that they share no state with the caller.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import pathlib
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_gen import shard_files
from data_gen.sandbox import kernel

_REPORT_PERIOD_S = 0.2

Finished = tuple[shard_files.Shard, dict[str, Any]]


class Pool:
  """Processes that run shards; a context manager.

  Args:
    config: plain values, given to every stage's worker.
    num_workers: processes; 0 or 1 runs in this process.
  """

  def __init__(self, config: Mapping[str, Any], num_workers: int):
    self._config = config
    self._num_workers = num_workers
    self._runner = _Runner(config)
    self._processes: list[tuple[Any, Any]] = []

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._runner.close()
    for process, connection in self._processes:
      connection.close()
      process.terminate()
      process.join()
    self._processes = []

  def run(
    self,
    module: str,
    shards: Sequence[shard_files.Shard],
    folder: pathlib.Path,
    folders: Mapping[str, pathlib.Path],
    on_rows: Callable[[int], None],
  ) -> Iterator[Finished]:
    """Yields (shard, its record) as shards finish, in any order.

    Args:
      module: of the stage, with a class `Worker`.
      shards: to make.
      folder: where their files go.
      folders: of the stages that it reads.
      on_rows: is told how many more rows were made, now and then.

    Raises:
      RuntimeError: if a process died. What a worker raises is raised here.
    """
    if self._num_workers <= 1:
      for shard in shards:
        task = (module, shard, folder, folders)
        yield shard, self._runner.run(task, on_rows)
      return
    while len(self._processes) < min(self._num_workers, len(shards)):
      self._processes.append(_start(self._config))
    waiting = list(reversed(shards))
    busy: dict[Any, tuple[Any, shard_files.Shard]] = {}
    for process, connection in self._processes:
      if waiting:
        shard = waiting.pop()
        connection.send((module, shard, folder, folders))
        busy[connection] = (process, shard)
    while busy:
      ready: list[Any] = multiprocessing.connection.wait(list(busy))
      for connection in ready:
        process, shard = busy[connection]
        kind, value = _receive(connection, process, shard)
        if kind == "rows":
          on_rows(value)
          continue
        yield shard, value
        del busy[connection]
        if waiting:
          shard = waiting.pop()
          connection.send((module, shard, folder, folders))
          busy[connection] = (process, shard)


class _Runner:
  """Runs shards, keeping the worker of the latest stage open."""

  def __init__(self, config):
    self._config = config
    self._module = None
    self._worker: Any = None

  def run(self, task, on_rows) -> dict[str, Any]:
    module, shard, folder, folders = task
    if module != self._module:
      self.close()
      self._worker = importlib.import_module(module).Worker(self._config)
      self._module = module
    counter = _Counter(on_rows)
    out = shard_files.ShardOutput(folder, shard, counter.add)
    try:
      self._worker.run(shard, folders, out)
      record = out.commit()
    except BaseException:
      out.discard()
      raise
    counter.report()
    return record

  def close(self):
    if self._worker is not None:
      self._worker.close()
    self._worker = None
    self._module = None


class _Counter:
  """Gathers rows, and reports them a few times a second."""

  def __init__(self, on_rows):
    self._on_rows = on_rows
    self._rows = 0
    self._last = time.monotonic()

  def add(self):
    self._rows += 1
    if time.monotonic() - self._last > _REPORT_PERIOD_S:
      self.report()

  def report(self):
    self._on_rows(self._rows)
    self._rows = 0
    self._last = time.monotonic()


def _start(config):
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  process = context.Process(target=_serve, args=(theirs, config), daemon=True)
  process.start()
  theirs.close()
  return process, ours


def _serve(connection, config) -> None:
  """Runs tasks until the caller goes away, even by a kill."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if sys.platform == "linux":
    # At once, not at the next message: else it would go on writing beside the
    # run that takes over.
    kernel.Kernel().end_with_parent()
  runner = _Runner(config)
  try:
    while True:
      task = connection.recv()
      try:
        record = runner.run(task, lambda n: connection.send(("rows", n)))
      except (BrokenPipeError, ConnectionResetError):
        raise
      except Exception as e:
        connection.send(("failed", (_portable(e), traceback.format_exc())))
      else:
        connection.send(("done", record))
  except (EOFError, BrokenPipeError, ConnectionResetError):
    pass
  finally:
    runner.close()


def _portable(error: Exception) -> Exception:
  """The error, or its text if it does not survive the way between processes."""
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:  # Whatever an error's own constructor raises.
    return RuntimeError(f"{type(error).__name__}: {error}")
  return error


def _receive(connection, process, shard):
  try:
    kind, value = connection.recv()
  except (EOFError, ConnectionResetError) as e:
    process.join()
    raise RuntimeError(
      f"the worker process of shard {shard} died (exit code"
      f" {process.exitcode}). Finished shards are kept: run the same command"
      " again to go on."
    ) from e
  if kind == "failed":
    error, where = value
    error.add_note(f"In the worker process of shard {shard}:\n{where}")
    raise error
  return kind, value
