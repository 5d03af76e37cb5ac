"""Files of programs: rows in, rows out, and what is wrong with either."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from data_gen import try_program
from data_gen.programs import batch
from data_gen.sandbox import executor as executor_lib
from data_gen.tools import server
from tests import configs

COUNT = """\
def execute_command(image):
  things = ImagePatch(image).find("thing")
  print(f"There are {len(things)}.")
  return formatting_answer(len(things))
"""


def program(expression):
  return f"def execute_command(image):\n  return {expression}\n"


@pytest.fixture(scope="module")
def sandbox():
  with executor_lib.Executor(wall_time_s=20, memory_mb=128) as sandbox:
    yield sandbox


@pytest.fixture(scope="module")
def tools():
  with server.ToolServer(try_program.tools_of("stub")) as tools:
    yield tools


@pytest.fixture
def run(sandbox, tools, tmp_path):
  """Runs rows, or lines of text; returns the rows that came out."""

  def run(*rows, in_flight=8):
    write(tmp_path / "in.jsonl", *rows)
    target = tmp_path / "out.jsonl"
    batch.run(tmp_path / "in.jsonl", target, sandbox, tools, in_flight)
    return [json.loads(line) for line in target.read_text().splitlines()]

  return run


def write(path, *rows):
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text("".join(line + "\n" for line in lines))


def png(side=8):
  data = io.BytesIO()
  PIL.Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(data, "PNG")
  return data.getvalue()


def huge_png():
  """A small file that says that it has 3.6 billion pixels."""

  def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check

  size = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
  return b"".join(
    [
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", size),
      chunk(b"IDAT", zlib.compress(b"x" * 1000)),
      chunk(b"IEND", b""),
    ]
  )


def test_a_row_is_as_the_format_says(run):
  (row,) = run({"id": "a", "program": COUNT, "gold": "2"})
  assert row.pop("wall_s") > 0
  assert list(row) == [
    *("id", "status", "error_class", "message", "answer", "is_correct"),
    "trace",
  ]
  assert row == {
    "id": "a",
    "status": "ok",
    "error_class": "",
    "message": "",
    "answer": "2",
    "is_correct": True,
    "trace": [
      {
        "step": 0,
        "line": 2,
        "tool": "find",
        "box": [0, 0, 999, 999],
        "arguments": {"object_name": "thing"},
        "value": [[0, 0, 999, 499], [0, 499, 999, 999]],
        "text": "find('thing') -> 2 found: 0 0 999 499 and 0 499 999 999",
      },
      {
        "step": 1,
        "line": 3,
        "tool": "print",
        "box": None,
        "arguments": {},
        "value": "There are 2.",
        "text": "There are 2.",
      },
      {
        "step": 2,
        "line": 0,
        "tool": "formatting_answer",
        "box": None,
        "arguments": {},
        "value": "2",
        "text": "Program output: 2",
      },
    ],
  }


def test_each_status_has_its_class_and_message(run):
  programs = {
    "ok": program("'é'"),
    "refused": "import os\n" + program("1"),
    "error": program("[][0]"),
    "killed": "def execute_command(image):\n  while True: print('x' * 999)\n",
  }
  rows = run(*[{"id": k, "program": p} for k, p in programs.items()])
  assert [row["status"] for row in rows] == [row["id"] for row in rows]
  found = [row["error_class"] for row in rows]
  assert found == ["", "refused", "index", "output"]
  assert rows[2]["message"] == "line 2: IndexError: list index out of range"
  assert [row["answer"] for row in rows] == ["é", None, None, None]
  assert all(row["message"] for row in rows[1:])
  assert not any("is_correct" in row for row in rows)


@pytest.mark.parametrize("in_flight", [1, 16])
def test_rows_come_in_input_order(run, in_flight):
  slow = "sum(range(3_000_000)) and "
  rows = [
    {"id": i, "program": program(f"{slow if i % 5 == 0 else ''}{i}")}
    if i % 7
    else {"id": i, "program": program(i), "image": "missing.png"}
    for i in range(40)
  ]
  found = run(*rows, in_flight=in_flight)
  assert [row["id"] for row in found] == list(range(40))
  expected = [str(i) if i % 7 else None for i in range(40)]
  assert [row["answer"] for row in found] == expected


@pytest.mark.parametrize(
  ("expression", "gold", "is_correct"),
  [
    ("'Red'", "red", True),
    ("'red'", "blue", False),
    ("3", 3, True),
    ("3", 3.0, True),
    ("3", "3", True),
    ("3", 4, False),
    ("0", 0, True),
    ("1 > 0", True, True),
    ("1 > 0", "yes", True),
    ("1 > 0", False, False),
    ("1 < 0", False, True),
    ("'dog'", ["cat", "dog"], True),
    ("'cow'", ["cat", "dog"], False),
    ("2", ["two", 2], True),
    ("1 / 0", "infinite", False),
    ("None", "", False),
  ],
)
def test_whether_an_answer_is_right(run, expression, gold, is_correct):
  (row,) = run({"id": 1, "program": program(expression), "gold": gold})
  assert row["is_correct"] is is_correct


@pytest.mark.parametrize("extra", [{}, {"gold": None}, {"image": None}])
def test_without_gold_nothing_is_said_of_it(run, extra):
  (row,) = run({"id": 1, "program": program("'x'"), **extra})
  assert row["answer"] == "x"
  assert "is_correct" not in row


def test_gold_never_reaches_the_worker(run, sandbox, monkeypatch):
  seen = []
  real = executor_lib.Executor.run_all

  def run_all(self, jobs, *rest):
    return real(self, (seen.append(job) or job for job in jobs), *rest)

  monkeypatch.setattr(executor_lib.Executor, "run_all", run_all)
  run({"id": "the id", "program": program("1"), "gold": "the secret"})
  assert len(seen) == 1
  assert "secret" not in repr(seen)
  assert "the id" not in repr(seen)


class TestImages:
  def test_paths_count_from_the_files_folder(self, tmp_path, sandbox):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png())
    body = program("ImagePatch(image).find('thing') == []")
    rows = [
      {"id": "relative", "program": body, "image": "images/a.png"},
      {"id": "full", "program": body, "image": str(tmp_path / "images/a.png")},
      {"id": "none", "program": body},
      {"id": "not needed", "program": program("'x'")},
    ]
    write(tmp_path / "in.jsonl", *rows)
    with server.ToolServer({"find": {"name": "world_find"}}) as tools:
      counts = batch.run(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", sandbox, tools
      )
    assert counts == {"": 3, "bad_image": 1}
    found = [
      json.loads(s) for s in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert [row["answer"] for row in found] == ["yes", "yes", None, "x"]
    assert found[2]["message"].endswith(
      "find looks at pixels, and there is no image"
    )

  @pytest.mark.parametrize(
    ("data", "message"),
    [
      (None, "No such file"),
      (b"", "no image that can be decoded"),
      (b"GIF89a", "no image that can be decoded"),
      (png(200)[:-30], "no image that can be decoded"),
      (huge_png(), "no image that can be decoded"),
    ],
    ids=["missing", "empty", "foreign", "truncated", "huge"],
  )
  def test_one_that_cannot_be_read_fails_its_row_alone(
    self, run, tmp_path, data, message
  ):
    if data is not None:
      (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(png())
    body = program("'x'")
    found = run(
      {"id": 1, "program": body, "image": "a.png", "gold": "x"},
      {"id": 2, "program": body, "image": "b.png", "gold": "x"},
      {"id": 3, "program": body, "image": "a.png"},
    )
    assert [row["status"] for row in found] == ["error", "ok", "error"]
    assert [row["error_class"] for row in found] == [
      "bad_image",
      "",
      "bad_image",
    ]
    assert "a.png" in found[0]["message"]
    assert message in found[0]["message"]
    assert [row.get("is_correct") for row in found] == [False, True, None]
    assert found[0]["trace"] == []

  @pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "folder"])
  def test_a_path_that_is_none_fails_its_row_alone(self, run, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (row,) = run({"id": 1, "program": program("'x'"), "image": name})
    assert row["error_class"] == "bad_image"
    assert "cannot read" in row["message"]


GOOD = {"id": 1, "program": program("1")}


class TestBadInput:
  @pytest.mark.parametrize(
    ("line", "message"),
    [
      ("{", "Expecting property name"),
      ("[1]", "expected an object with"),
      ("null", "expected an object with"),
      ("[" * 10**5, ""),
      ({"program": "x"}, "'id' must be a text or an int, got None"),
      ({"id": 2}, "'program' must be a text, got None"),
      ({"id": 2.5, "program": "x"}, "'id' must be a text or an int, got 2.5"),
      ({"id": True, "program": "x"}, "'id' must be a text or an int, got True"),
      ({"id": 2, "program": ["x"]}, r"'program' must be a text, got \['x'\]"),
      ({"id": 1, "program": "x"}, "id 1 is that of line 1 too"),
      (
        GOOD | {"id": 2, "imge": "x"},
        "imge is no option. Did you mean 'image'",
      ),
      (GOOD | {"id": 2, "image": 5}, "'image' must be a path, got 5"),
      (GOOD | {"id": 2, "gold": {}}, "'gold' must be an answer or a list"),
      (GOOD | {"id": 2, "gold": [["x"]]}, "'gold' must be an answer or a list"),
      (GOOD | {"id": 2, "gold": []}, "'gold' is an empty list; leave it out"),
      ('{"id": 2, "program": "", "gold": NaN}', "'gold' must be an answer"),
    ],
  )
  def test_a_malformed_line_is_named_and_nothing_runs(
    self, run, tmp_path, line, message
  ):
    (tmp_path / "out.jsonl").write_text("older")
    with pytest.raises(ValueError, match=rf"in\.jsonl, line 3: .*{message}"):
      run(GOOD, "", line)
    assert (tmp_path / "out.jsonl").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2

  def test_bytes_that_are_no_utf8_are_named(
    self, run, tmp_path, sandbox, tools
  ):
    (tmp_path / "in.jsonl").write_bytes(
      b'\n{"id": "caf\xe9", "program": "x"}\n'
    )
    with pytest.raises(ValueError, match=r"in\.jsonl, line 2: .*utf-8"):
      batch.run(tmp_path / "in.jsonl", tmp_path / "out", sandbox, tools)

  def test_equal_looking_ids_of_two_types_are_two(self, run):
    rows = run(GOOD, GOOD | {"id": "1"}, GOOD | {"id": "\ud800é"})
    assert [row["id"] for row in rows] == [1, "1", "\ud800é"]

  @pytest.mark.parametrize("lines", [(), ("", " ")])
  def test_an_empty_file_gives_an_empty_file(self, run, lines):
    assert run(*lines) == []

  @pytest.mark.parametrize("target", ["missing/out.jsonl", "folder", "."])
  def test_a_target_that_cannot_be_is_named_before_anything_runs(
    self, tmp_path, sandbox, target, monkeypatch
  ):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "in.jsonl", GOOD)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=f"cannot write {target}: "):
      # Without tools: a program that was started would fail otherwise.
      path = batch.pathlib.Path(target)
      batch.run(tmp_path / "in.jsonl", path, sandbox, tools=None)  # type: ignore
    assert sorted(tmp_path.rglob("*")) == before

  def test_a_full_disk_leaves_the_older_file(self, run, tmp_path, monkeypatch):
    (tmp_path / "out.jsonl").write_text("older")

    def no_room(fd):
      raise OSError(28, os.strerror(28))

    monkeypatch.setattr(batch.os, "fsync", no_room)
    with pytest.raises(OSError, match=r"cannot write .*out\.jsonl: No space"):
      run(GOOD)
    monkeypatch.undo()
    assert (tmp_path / "out.jsonl").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2
    assert run(GOOD)[0]["answer"] == "1"

  def test_an_interrupt_leaves_the_older_file(self, tmp_path, sandbox):
    class Interrupted:
      def submit(self, *_):
        raise KeyboardInterrupt

      def poll(self, flush):
        return []

      def files(self):
        return ()

      def next_deadline_s(self):
        return None

    write(tmp_path / "in.jsonl", GOOD, {"id": 2, "program": COUNT})
    (tmp_path / "out.jsonl").write_text("older")
    with pytest.raises(KeyboardInterrupt):
      batch.run(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", sandbox, Interrupted()
      )
    assert (tmp_path / "out.jsonl").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2


def test_two_hundred_from_the_command_line(tmp_path):
  rows = [
    {"id": f"p{i}", "program": COUNT.replace('"thing"', f'"thing {i % 9}"')}
    if i % 10
    else {"id": f"p{i}", "program": program(f"[1][{i}]"), "gold": 1}
    for i in range(200)
  ]
  write(tmp_path / "in.jsonl", *rows)
  done = subprocess.run(
    [
      *(sys.executable, "-m", "data_gen.try_program", "--tools", "stub"),
      *("--batch", str(tmp_path / "in.jsonl")),
      *("--out", str(tmp_path / "out.jsonl"), "--in_flight", "32"),
    ],
    cwd=configs.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("200 programs in ")
  assert [line.split() for line in done.stdout.splitlines()[1:]] == [
    ["181", "ok"],
    ["19", "index"],
  ]
  lines = (tmp_path / "out.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [row["id"] for row in found] == [row["id"] for row in rows]
  assert sum(row.get("is_correct", False) for row in found) == 1
  assert [row["answer"] for row in found[:3]] == ["1", "2", "2"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
