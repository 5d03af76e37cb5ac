"""Scalars of a run: WORKDIR/metrics.jsonl, and the same for TensorBoard.

A line is {"step": 100, "loss": 0.41, ...}. A resumed run drops what was
written past the step that it goes on from, so no step is there twice.
"""

import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping

import tensorboardX


class Writer:
  """Writes scalars by step."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    resume_step: int = 0,
    *,
    is_active: bool = True,
  ):
    """Opens the files.

    Args:
      workdir: where metrics.jsonl and tensorboard/ are.
      resume_step: the step whose checkpoint the run goes on from; 0: none.
      is_active: False writes nothing: of several processes, one writes.

    Raises:
      OSError: if the files cannot be written.
      ValueError: if metrics.jsonl holds a line that is no JSON, other than a
        last one cut short.
    """
    self._file = None
    if not is_active:
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    if path.exists():
      _keep_until(path, resume_step)
    self._file = open(path, "a", encoding="utf-8")
    self._tensorboard = tensorboardX.SummaryWriter(
      os.fspath(folder / "tensorboard"),
      # Tells TensorBoard to hide what an earlier process wrote past here.
      purge_step=resume_step + 1,
      flush_secs=10,
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line; a value that is not finite becomes null."""
    if self._file is None:
      return
    row: dict[str, float | int | None] = {"step": step}
    for name, value in values.items():
      number = float(value)
      row[name] = number if math.isfinite(number) else None
      self._tensorboard.add_scalar(name, number, step)
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Writes out what is buffered; to be called last."""
    if self._file is not None:
      self._file.close()
      self._tensorboard.close()


def read(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Lines of a run's metrics.jsonl, oldest first.

  Raises:
    FileNotFoundError: if the run wrote none.
    ValueError: if a line is no JSON.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  lines = path.read_text(encoding="utf-8").splitlines()
  return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _keep_until(path: pathlib.Path, last_step: int) -> None:
  text = path.read_text(encoding="utf-8")
  complete, _, cut_short = text.rpartition("\n")
  if cut_short:
    logging.warning("%s: dropped a last line cut short", path)
  kept = []
  for number, line in enumerate(complete.splitlines(), start=1):
    if _parse(path, number, line)["step"] <= last_step:
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
