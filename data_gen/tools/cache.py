"""Keeps answers of tools on disk, by the hash of all that decides them.

One SQLite file in a folder; many processes may share it, on a local disk (its
write-ahead log does not work over network file systems). What goes wrong with
the file costs time, not answers: it is counted, warned of, and the run goes
on without.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

FILE_NAME = "tool_answers.sqlite3"
_BUSY_TIMEOUT_S = 5.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NOT_WRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
_CREATE = """CREATE TABLE IF NOT EXISTS answers
  (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"""


class BrokenEntry(ValueError):
  """A kept value that does not parse or is not of the call's type."""


def key_of(
  tool: Mapping[str, Any],
  image_key: str | None,
  box: tuple[int, int, int, int],
  arguments: Mapping[str, Any],
) -> str:
  """The hash that names an answer.

  Args:
    tool: call, module, options, version and weights; plain values.
    image_key: of the image; None for a tool that looks at no pixels.
    box: y1 x1 y2 x2 on 0..999.
    arguments: of the call, plain values.
  """
  identity = [tool, image_key, box, arguments]
  text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


class DiskCache:
  """The answers kept in a folder; failures are never among them.

  A file that is corrupt is moved aside as "<name>.broken-N", and a new one is
  begun. Writing stops for good when the disk is full or read-only, and the
  whole cache is off where no file can be opened.

  Args:
    folder: made if it is not there.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self._folder = pathlib.Path(folder)
    self._path = self._folder / FILE_NAME
    self._lock_path = self._folder / f".{FILE_NAME}.lock"
    self._db: sqlite3.Connection | None = None
    self._is_writing = True
    self._num_broken_files = 0
    self._num_unwritten = 0
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with _lock(self._lock_path):
        self._db = _open(self._path)
    except (OSError, sqlite3.Error) as e:
      self._handle(e)

  def stats(self) -> dict[str, Any]:
    """is_reading, is_writing, broken_files (moved aside), and unwritten: how
    many answers could not be kept."""
    return {
      "is_reading": self._db is not None,
      "is_writing": self._is_writing,
      "broken_files": self._num_broken_files,
      "unwritten": self._num_unwritten,
    }

  def get(self, key: str, check: Callable[[Any], Any]) -> Any | None:
    """The value kept under `key`; None if there is none.

    Args:
      key: see `key_of`.
      check: returns a value of the right type as plain data; raises for any
        other.

    Raises:
      BrokenEntry: if what is kept there is no such value.
    """
    if self._db is None:
      return None
    try:
      row = self._db.execute(
        "SELECT value FROM answers WHERE key = ?", (key,)
      ).fetchone()
    except sqlite3.Error as e:
      self._handle(e)
      return None
    if row is None:
      return None
    try:
      return check(json.loads(row[0]))
    except Exception as e:  # Whatever bytes of any kind lead to.
      raise BrokenEntry(f"the entry {key} is broken: {e}") from e

  def put(self, answers: Iterable[tuple[str, Any]]) -> None:
    """Keeps (key, plain value) pairs, all in one transaction."""
    rows = [(key, json.dumps(value)) for key, value in answers]
    if self._db is None or not self._is_writing:
      self._num_unwritten += len(rows)
      return
    try:
      _write(self._db, rows)
    except sqlite3.Error as e:
      self._num_unwritten += len(rows)
      self._handle(e)

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    if self._db is not None:
      self._db.close()
    self._db = None

  def _handle(self, error):
    """Goes on as well as the error allows."""
    code = _code_of(error)
    if code == sqlite3.SQLITE_BUSY and self._db is not None:
      return  # Another process writes for long: these answers are not kept.
    if code in _CORRUPT:
      try:
        self._replace(error)
        return
      except (OSError, sqlite3.Error) as e:
        error = e
        self.close()
    self._is_writing = False
    if self._db is None or code not in _NOT_WRITABLE:
      self.close()
      with contextlib.suppress(OSError, sqlite3.Error):
        self._db = _open_read_only(self._path)
    state = "read but not written" if self._db else "off"
    warnings.warn(
      f"the cache of tool answers {self._path} is {state} from here on:"
      f" {error}. The run goes on; make room or choose another cache_dir to"
      " keep answers.",
      stacklevel=2,
    )

  def _replace(self, error):
    """A new file in place of a corrupt one; one process does it for all."""
    self.close()
    with _lock(self._lock_path):
      self._db = _open_if_sound(self._path)
      if self._db is not None:
        return  # Another process was here first.
      aside = _free_name(self._path)
      for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
          os.rename(f"{self._path}{suffix}", f"{aside}{suffix}")
      self._db = _open(self._path)
    self._num_broken_files += 1
    warnings.warn(
      f"the cache of tool answers {self._path} was corrupt ({error}); it is"
      f" kept as {aside.name}, and a new one is begun.",
      stacklevel=2,
    )


def _open(path):
  db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
  try:
    db.text_factory = bytes  # A broken text must not end the run.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(_CREATE)
    # From here on: an answer that is not kept costs less than a wait.
    db.execute("PRAGMA busy_timeout = 50")
  except sqlite3.Error:
    db.close()
    raise
  return db


def _open_read_only(path):
  if not path.is_file():
    return None
  # Immutable: where the folder is read-only, no log can be made beside it.
  uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
  db = sqlite3.connect(uri, uri=True, isolation_level=None)
  try:
    db.text_factory = bytes
    db.execute("SELECT key FROM answers LIMIT 1").fetchone()
  except sqlite3.Error:
    db.close()
    raise
  return db


def _open_if_sound(path):
  """The open file, or None if it is corrupt."""
  try:
    db = _open(path)
  except sqlite3.Error as e:
    if _code_of(e) not in _CORRUPT:
      raise
    return None
  try:
    is_sound = db.execute("PRAGMA quick_check(1)").fetchone() == (b"ok",)
  except sqlite3.Error:
    is_sound = False
  if is_sound:
    return db
  db.close()
  return None


def _code_of(error):
  """SQLite's primary error code; 0 for an error of another kind."""
  return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _write(db, rows):
  db.execute("BEGIN IMMEDIATE")
  try:
    db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
    db.execute("COMMIT")
  except sqlite3.Error:
    if db.in_transaction:
      db.execute("ROLLBACK")
    raise


def _free_name(path):
  number = 1
  while path.with_name(f"{path.name}.broken-{number}").exists():
    number += 1
  return path.with_name(f"{path.name}.broken-{number}")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
  with open(path, "w") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    yield
