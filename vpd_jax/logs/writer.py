"""Scalars of a run: WORKDIR/metrics.jsonl, the same for TensorBoard, wandb.

A line is {"step": 100, "loss": 0.41, ...}; an evaluation adds one of its own
for the same step. A resumed run drops what was written past the step that it
goes on from, so nothing is there twice.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2, summary_pb2

# Their classes are made as they are imported, which pyright does not see.
_EVENT: Any = event_pb2
_SUMMARY: Any = summary_pb2
# How long events may stay in memory.
_FLUSH_S = 10.0


class Writer:
  """Writes scalars by step."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    resume_step: int = 0,
    *,
    again: Sequence[str] = (),
    is_active: bool = True,
    wandb: str = "",
    config: Mapping[str, Any] | None = None,
  ):
    """Opens the files.

    Args:
      workdir: where metrics.jsonl and tensorboard/ are.
      resume_step: the step whose checkpoint the run goes on from; 0: none.
      again: starts of names that the run will write once more for
        `resume_step`: its lines that have one are dropped.
      is_active: False writes nothing: of several processes, one writes.
      wandb: project of Weights & Biases to write to as well; "": none. A run
        that goes on there is the one of WORKDIR/wandb_id.
      config: shown there.

    Raises:
      ImportError: if wandb is asked for and not installed.
      OSError: if the files cannot be written.
      ValueError: if metrics.jsonl holds a line that is no JSON, other than a
        last one cut short.
    """
    self._file = self._wandb = None
    if not is_active:
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if wandb:
      self._wandb = import_wandb().init(
        project=wandb,
        id=_wandb_id(folder),
        dir=os.fspath(folder),
        resume="allow",
        config=dict(config or {}),
      )
    path = self._path = folder / "metrics.jsonl"
    if path.exists():
      _keep_until(path, resume_step, tuple(again))
    self._file = open(path, "a", encoding="utf-8")
    self._events_path = folder / "tensorboard"
    self._events = _Events(self._events_path, resume_step + 1)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line; a value that is not finite becomes null.

    Raises:
      OSError: if it cannot; names the file.
    """
    if self._file is None:
      return
    row: dict[str, float | int | None] = {"step": step}
    for name, value in values.items():
      number = float(value)
      row[name] = number if math.isfinite(number) else None
    with _naming(self._path):
      self._file.write(json.dumps(row) + "\n")
      self._file.flush()
    with _naming(self._events_path):
      self._events.write(step, values)
    if self._wandb is not None:
      self._wandb.log({k: v for k, v in row.items() if k != "step"}, step=step)

  def close(self) -> None:
    """Writes out what is buffered; to be called last.

    Raises:
      OSError: as `write`.
    """
    try:
      if self._file is not None:
        with _naming(self._path):
          self._file.close()
        with _naming(self._events_path):
          self._events.close()
    finally:
      if self._wandb is not None:
        self._wandb.finish()


class _Events:
  """TensorBoard's file, written by the caller: an error comes to it.

  A thread that writes, as SummaryWriter's, dies of a full disk without a word,
  and whoever gives it more then waits for ever.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = event_file_writer.EventsWriter(
      # TensorBoard reads files in the order of their names.
      os.fspath(folder / "events"),
      filename_suffix=f".{time.time_ns()}",
    )
    # Tells TensorBoard to hide what an earlier process wrote from here on.
    start = _EVENT.SessionLog(status=_EVENT.SessionLog.START)
    self._add(step=first_step, session_log=start)
    self._writer.flush()
    self._flushed = time.monotonic()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    scalars = [summary.scalar(name, float(x)) for name, x in values.items()]
    parts = [part for scalar in scalars for part in scalar.value]
    self._add(step=step, summary=_SUMMARY.Summary(value=parts))
    if time.monotonic() - self._flushed > _FLUSH_S:
      self._writer.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._writer.close()

  def _add(self, **parts: Any) -> None:
    self._writer.write_event(_EVENT.Event(wall_time=time.time(), **parts))


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as e:
    raise OSError(
      f"cannot write {path}: {e.strerror or e}. Free some space, or check who"
      " may write there; run again, and training goes on from its last"
      " checkpoint."
    ) from e


def import_wandb() -> ModuleType:
  """The module, for a config that asks for it.

  Raises:
    ImportError: if it is not installed; says how to.
  """
  try:
    import wandb  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ImportError(
      "config.log.wandb is set, but wandb is not installed: pip install"
      " 'vpd_jax[wandb]'"
    ) from e
  return wandb


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Lines of a run's metrics.jsonl, oldest first.

  Raises:
    FileNotFoundError: if the run wrote none.
    ValueError: if a line is no JSON.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  lines = path.read_text(encoding="utf-8").splitlines()
  return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _wandb_id(folder: pathlib.Path) -> str:
  """The run's name at wandb, which is kept beside it."""
  path = folder / "wandb_id"
  if not path.exists():
    path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
  return path.read_text(encoding="utf-8").strip()


def _keep_until(
  path: pathlib.Path, last_step: int, again: tuple[str, ...]
) -> None:
  text = path.read_text(encoding="utf-8")
  complete, _, cut_short = text.rpartition("\n")
  if cut_short:
    logging.warning("%s: dropped a last line cut short", path)
  kept = []
  for number, line in enumerate(complete.splitlines(), start=1):
    row = _parse(path, number, line)
    is_again = again and any(name.startswith(again) for name in row)
    if row["step"] < last_step or (row["step"] == last_step and not is_again):
      kept.append(line + "\n")
  unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
  unfinished.write_text("".join(kept), encoding="utf-8")
  os.replace(unfinished, path)


def _parse(path: pathlib.Path, number: int, line: str) -> dict[str, float]:
  try:
    row = json.loads(line)
    row["step"]
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f"{path}:{number}: not a line of metrics: {line[:80]!r}. Mend or remove"
      " that line."
    ) from e
  return row
