"""What is kept on disk, and what happens when the disk does not play along."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import pytest

from data_gen.tools import cache

TOOL = {"call": "ocr", "options": {}, "version": "1", "weights": ""}
BOX = (0, 0, 999, 999)


def same(value):
  return value


@contextlib.contextmanager
def opened(folder):
  made = cache.DiskCache(folder)
  try:
    yield made
  finally:
    made.close()


@pytest.mark.parametrize(
  "value", ["x", "\ud800é\n", "", True, 0.1, [], [[1, 2, 3, 4]], [0.5, 1e300]]
)
def test_values_come_back_as_they_were(tmp_path, value):
  with opened(tmp_path / "made") as made:
    made.put([("k", value)])
  with opened(tmp_path / "made") as made:
    assert made.get("k", same) == value
    assert type(made.get("k", same)) is type(value)
    assert made.get("other", same) is None


def test_a_later_value_replaces_an_earlier(tmp_path):
  with opened(tmp_path) as made:
    made.put([("k", "a")])
    made.put([("k", "b"), ("l", "c")])
    assert made.get("k", same) == "b"


@pytest.mark.parametrize(
  "change",
  [
    {"tool": {**TOOL, "version": "2"}},
    {"tool": {**TOOL, "weights": "w"}},
    {"tool": {**TOOL, "options": {"size": 1}}},
    {"image_key": "other"},
    {"image_key": None},
    {"box": (0, 0, 999, 998)},
    {"arguments": {"question": "b"}},
  ],
)
def test_all_that_decides_an_answer_is_in_its_key(change):
  given = {
    "tool": TOOL,
    "image_key": "i",
    "box": BOX,
    "arguments": {"question": "a"},
  }
  assert cache.key_of(**given) == cache.key_of(**given)
  assert cache.key_of(**given) != cache.key_of(**{**given, **change})


def test_a_key_does_not_depend_on_the_order_of_arguments():
  a, b = {"x": 1, "y": 2}, {"y": 2, "x": 1}
  assert cache.key_of(TOOL, None, BOX, a) == cache.key_of(TOOL, None, BOX, b)


@pytest.mark.parametrize("value", ["{", b"\xff\xfe", 3.5, "[" * 100_000])
def test_a_broken_entry(tmp_path, value):
  with opened(tmp_path) as made:
    made._db.execute("INSERT INTO answers VALUES ('k', ?)", (value,))

    def is_text(found):
      if not isinstance(found, str):
        raise TypeError("no text")
      return found

    with pytest.raises(cache.BrokenEntry, match="the entry k is broken"):
      made.get("k", is_text)
    made.put([("k", "good")])
    assert made.get("k", is_text) == "good"


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_corrupt_file_is_moved_aside(tmp_path, where):
  path = tmp_path / cache.FILE_NAME
  with opened(tmp_path) as made:
    made.put((f"key{i}", "x" * 100) for i in range(2000))
  data = bytearray(path.read_bytes())
  if where == "start":
    data[:100] = b"?" * 100
  else:
    data[4096:] = b"?" * (len(data) - 4096)
  path.write_bytes(data)
  with pytest.warns(UserWarning, match=r"corrupt.*broken-1"):
    made = cache.DiskCache(tmp_path)
    assert made.get("key1", same) is None
  made.put([("key1", "new")])
  assert made.get("key1", same) == "new"
  assert made.stats() == {
    "is_reading": True,
    "is_writing": True,
    "broken_files": 1,
    "unwritten": 0,
  }
  made.close()
  assert (tmp_path / f"{cache.FILE_NAME}.broken-1").read_bytes() == data


def test_a_second_process_does_not_move_the_new_file(tmp_path):
  path = tmp_path / cache.FILE_NAME
  with opened(tmp_path) as made:
    made.put((f"key{i}", "x" * 100) for i in range(2000))
  first, second = cache.DiskCache(tmp_path), cache.DiskCache(tmp_path)
  with open(path, "r+b") as f:
    f.seek(4096)
    f.write(b"?" * (path.stat().st_size - 4096))
  with pytest.warns(UserWarning, match="corrupt"):
    assert first.get("key1", same) is None
  first.put([("key1", "new")])
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    second.get("key1", same)  # Still on the old file, finds it corrupt.
  assert second.get("key1", same) == "new"
  assert second.stats()["broken_files"] == 0
  assert not (tmp_path / f"{cache.FILE_NAME}.broken-2").exists()
  first.close()
  second.close()


def test_a_full_disk_ends_writing(tmp_path):
  with opened(tmp_path) as made:
    made.put([("a", "kept")])
    made._db.execute("PRAGMA max_page_count = 3")
    with pytest.warns(UserWarning, match=r"read but not written.*full"):
      made.put([("b", "x" * 100_000), ("c", "x")])
    with warnings.catch_warnings():
      warnings.simplefilter("error")  # One warning is enough.
      made.put([("d", "x")])
    assert made.get("a", same) == "kept"
    assert made.get("c", same) is None  # A transaction is whole or nothing.
    assert not made.stats()["is_writing"]
    assert made.stats()["unwritten"] == 3


@pytest.fixture
def read_only_folder():
  """A folder with a file of answers that this process may not write to."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    with opened(folder) as made:
      made.put([("a", "kept")])
    folder.chmod(0o555)
    for path in folder.iterdir():
      path.chmod(0o444)
    user = os.geteuid()
    if user == 0:
      os.seteuid(65534)  # Root may write anywhere.
    try:
      yield folder
    finally:
      os.seteuid(user)
      folder.chmod(0o755)


def test_a_read_only_folder_is_read(read_only_folder):
  with pytest.warns(UserWarning, match="read but not written from here on"):
    made = cache.DiskCache(read_only_folder)
  assert made.get("a", same) == "kept"
  made.put([("b", "x")])
  assert made.get("b", same) is None
  assert made.stats()["unwritten"] == 1
  made.close()


def test_a_folder_that_cannot_be_made_turns_the_cache_off(tmp_path):
  (tmp_path / "file").touch()
  with pytest.warns(UserWarning, match="is off from here on"):
    made = cache.DiskCache(tmp_path / "file" / "folder")
  made.put([("a", "x")])
  assert made.get("a", same) is None
  assert not made.stats()["is_reading"]
  made.close()


def test_a_file_that_another_process_writes_for_long(tmp_path, monkeypatch):
  monkeypatch.setattr(cache, "_BUSY_TIMEOUT_S", 0.05)
  with opened(tmp_path) as made, opened(tmp_path) as other:
    other._db.execute("BEGIN IMMEDIATE")
    made.put([("a", "x")])
    assert made.stats()["unwritten"] == 1
    other._db.execute("ROLLBACK")
    made.put([("a", "x")])
    assert other.get("a", same) == "x"


def test_many_processes_share_a_file(tmp_path):
  program = (
    "import sys; from data_gen.tools import cache\n"
    "made = cache.DiskCache(sys.argv[1])\n"
    "for i in range(100): made.put([(f'{sys.argv[2]}-{i}', i)])\n"
    "stats = made.stats()\n"
    "made.close()\n"
    "assert not stats['unwritten'] and not stats['broken_files'], stats\n"
  )
  command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  running = [
    subprocess.Popen([*command, str(n)], env=environment) for n in range(4)
  ]
  assert [process.wait(60) for process in running] == [0] * 4
  with opened(tmp_path) as made:
    found = [made.get(f"{n}-{i}", same) for n in range(4) for i in range(100)]
  assert found == list(range(100)) * 4
