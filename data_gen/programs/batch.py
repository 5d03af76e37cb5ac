"""Runs a file of programs: JSON lines in, JSON lines out, in the same order.

    {"id": "a", "program": "def execute_command(image): ...",
     "image": "images/1.jpg", "gold": "red"}
  ->
    {"id": "a", "status": "ok", "error_class": "", "message": "",
     "answer": "red", "is_correct": true, "trace": [...], "wall_s": 0.01}

`image` and `gold` may be left out. An image's path counts from the file's own
folder. Whether an answer is right is decided here, where the programs run not.
"""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import PIL.Image

from data_gen.sandbox import engine, executor
from data_gen.tools import api
from data_gen.tools import tool as tool_lib
from data_gen.trace import recorder
from vpd_jax import config_check
from vpd_jax.evaluators import scoring

FORMATS = ("JPEG", "PNG")
KEYS = ("id", "program", "image", "gold")


def run(
  source: pathlib.Path,
  target: pathlib.Path,
  sandbox: executor.Executor,
  tools: engine.Tools,
  in_flight: int = 64,
) -> Counter:
  """Runs all programs of `source`; `target` appears when it is whole.

  Args:
    source: JSON lines, UTF-8; all are checked before the first runs.
    target: where rows go; an older file is replaced.
    sandbox: that the programs run in.
    tools: answer their calls.
    in_flight: most programs at a time.

  Returns:
    Rows by error class; "" is an answer.

  Raises:
    ValueError: on a line that is no such row, and on an id that comes twice;
      names the file and the line. Nothing is written then.
    OSError: if a file cannot be read or written.
  """
  if source.exists() and not source.is_file():
    raise ValueError(
      f"{source} is no regular file; it is read twice, first to check it"
    )
  for _ in _rows(source):
    pass
  waiting: collections.deque[_Waiting] = collections.deque()
  outcomes = sandbox.run_all(_jobs(source, waiting), tools, in_flight)
  counts: Counter = Counter()
  with _Output(target) as out:
    for latest in itertools.chain(outcomes, [None]):
      for row, outcome in _take(waiting, latest):
        out.write(json.dumps(_result(row, outcome), ensure_ascii=False) + "\n")
        counts[outcome.error_class] += 1
    out.commit()
  return counts


def read_image(path: pathlib.Path) -> tool_lib.Image:
  """An image file for the tools.

  Raises:
    ValueError: if it cannot be read or decoded; names it.
  """
  try:
    encoded = path.read_bytes()
  except (OSError, ValueError) as e:  # ValueError: no path at all.
    reason = e.strerror if isinstance(e, OSError) else e
    raise ValueError(f"cannot read {path}: {reason}") from e
  try:
    # As the tools' process decodes it.
    with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
      image.load()
  except Exception as e:  # A decoder raises anything on foreign bytes.
    raise ValueError(
      f"{path} is no image that can be decoded ({e}); expected a whole JPEG "
      "or PNG file"
    ) from e
  return tool_lib.Image(hashlib.sha256(encoded).hexdigest(), encoded)


class _Output:
  """A text file that appears under its name when it is whole.

  Raises:
    OSError: if it cannot be written; names it.
  """

  def __init__(self, target: pathlib.Path):
    self._target = target
    self._temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"

  def __enter__(self) -> "_Output":
    with self._named():
      if self._target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
      # A lone surrogate becomes the escape that JSON has for it.
      self._file = self._temporary.open(
        "w", encoding="utf-8", errors="backslashreplace"
      )
    return self

  def __exit__(self, *exception: Any) -> None:
    with contextlib.suppress(OSError):  # What was not written has been told.
      self._file.close()
    self._temporary.unlink(missing_ok=True)

  def write(self, text: str) -> None:
    with self._named():
      self._file.write(text)

  def commit(self) -> None:
    """Makes it visible; an older file is replaced."""
    with self._named():
      self._file.flush()
      os.fsync(self._file.fileno())
      os.replace(self._temporary, self._target)

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    try:
      yield
    except OSError as e:
      raise OSError(f"cannot write {self._target}: {e.strerror}") from e


# A row, and its outcome if it has one without being run.
_Waiting = tuple[dict[str, Any], executor.Outcome | None]


def _take(
  waiting: collections.deque[_Waiting], outcome: executor.Outcome | None
) -> Iterator[tuple[dict[str, Any], executor.Outcome]]:
  """Rows that are done now that `outcome` is that of the first one that ran;
  None: that all have been run."""
  while waiting and (outcome is not None or waiting[0][1] is not None):
    row, own = waiting.popleft()
    if own is None:
      assert outcome is not None
      yield row, outcome
      return
    yield row, own


def _jobs(source, waiting) -> Iterator[engine.Job]:
  for row in _rows(source):
    image = None
    if row.get("image") is not None:
      try:
        image = read_image(source.parent / row["image"])
      except ValueError as e:
        message = recorder.clean(str(e))
        outcome = executor.Outcome(
          *("error", "bad_image", message, None, ()), tool_calls=0, wall_s=0.0
        )
        waiting.append((row, outcome))
        continue
    waiting.append((row, None))
    yield engine.Job(row["program"], image)


def _result(
  row: Mapping[str, Any], outcome: executor.Outcome
) -> dict[str, Any]:
  result: dict[str, Any] = {"id": row["id"]}
  for name in ("status", "error_class", "message", "answer"):
    result[name] = getattr(outcome, name)
  if row.get("gold") is not None:
    is_ok, gold = outcome.status == "ok", _texts(row["gold"])
    answer = outcome.answer or ""
    result["is_correct"] = is_ok and scoring.exact_match(answer, gold)
  result["trace"] = [dataclasses.asdict(event) for event in outcome.trace]
  result["wall_s"] = round(outcome.wall_s, 6)
  return result


def _rows(source: pathlib.Path) -> Iterator[dict[str, Any]]:
  first: dict[Any, int] = {}
  with source.open("rb") as lines:
    for number, line in enumerate(lines, start=1):
      if not line.strip():
        continue
      try:
        row = json.loads(line.decode("utf-8"))
        _check(row)
        if first.setdefault(row["id"], number) != number:
          raise ValueError(
            f"id {row['id']!r} is that of line {first[row['id']]} too"
          )
      except (ValueError, RecursionError) as e:
        raise ValueError(f"{source}, line {number}: {e}") from e
      yield row


def _check(row: Any) -> None:
  if not isinstance(row, Mapping):
    raise ValueError(f"expected an object with {KEYS}, got {row!r}")
  config_check.check_names(row, KEYS, "")
  if type(row.get("id")) not in (str, int):
    raise ValueError(f"'id' must be a text or an int, got {row.get('id')!r}")
  if not isinstance(row.get("program"), str):
    raise ValueError(f"'program' must be a text, got {row.get('program')!r}")
  if not isinstance(row.get("image", ""), str | None):
    raise ValueError(f"'image' must be a path, got {row['image']!r}")
  if row.get("gold") == []:
    raise ValueError("'gold' is an empty list; leave it out if none is known")
  try:
    if row.get("gold") is not None:
      _texts(row["gold"])
  except api.BadAnswer as e:
    raise ValueError(f"'gold' must be an answer or a list of them: {e}") from e


def _texts(gold: Any) -> list[str]:
  """The right answers, as text."""
  answers = gold if isinstance(gold, list) else [gold]
  return [api.answer_text(answer) for answer in answers]
