"""The front door for one program."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from data_gen import try_program

_PROGRAM = """\
def execute_command(image):
  boxes = ImagePatch(image).find("car")
  print(f"Cars: {boxes[0]}")
  return formatting_answer(len(boxes))
"""


@pytest.fixture
def program(tmp_path):
  path = tmp_path / "program.py"
  path.write_text(_PROGRAM)
  return path


def test_shows_the_answer_and_the_trace(program, capsys):
  assert try_program.main(["--program", str(program)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == ["status: ok", "answer: 2"]
  assert lines[3:] == [
    "trace:",
    "    0  line 2    find('car') -> 2 found: 0 0 999 499 and 0 499 999 999",
    "    1  line 3    Cars: 0 0 999 499",
    "    2            Program output: 2",
  ]


def test_shows_the_error_class(tmp_path, capsys):
  path = tmp_path / "program.py"
  path.write_text("def execute_command(image):\n  return [][0]\n")
  assert try_program.main(["--program", str(path), "--tools", "stub"]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[:3] == [
    "status: error",
    "error class: index",
    "message: line 2: IndexError: list index out of range",
  ]
  assert lines[-1] == "trace: empty"


def test_an_image_is_read(program, tmp_path, capsys):
  image = tmp_path / "image.png"
  PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
  arguments = ["--program", str(program), "--image", str(image)]
  assert try_program.main(arguments) == 0
  assert "answer: 2" in capsys.readouterr().out


def jpeg():
  data = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  PIL.Image.fromarray(noise).save(data, "JPEG")
  return data.getvalue()


@pytest.mark.parametrize("data", [b"", b"text", jpeg()[:700]])
def test_an_image_that_cannot_be_decoded(program, tmp_path, capsys, data):
  image = tmp_path / "image.jpg"
  image.write_bytes(data)
  arguments = ["--program", str(program), "--image", str(image)]
  assert try_program.main(arguments) == 2
  errors = capsys.readouterr().err
  assert f"{image} is no image that can be decoded" in errors


def test_files_that_are_missing(program, tmp_path, capsys):
  missing = str(tmp_path / "missing")
  assert try_program.main(["--program", missing]) == 2
  assert f"cannot read {missing}: No such file" in capsys.readouterr().err
  arguments = ["--program", str(program), "--image", missing]
  assert try_program.main(arguments) == 2
  assert f"cannot read {missing}" in capsys.readouterr().err


def test_help_answers_at_once():
  start_s = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-m", "data_gen.try_program", "--help"],
    capture_output=True,
    text=True,
    check=True,
  )
  assert "--program" in done.stdout
  assert time.monotonic() - start_s < 2


@pytest.mark.parametrize("profile", ["stub", "world", "photos"])
def test_a_profile_has_a_tool_for_every_call(profile):
  assert set(try_program.tools_of(profile)) == set(try_program._SUFFIXES)


VIPER = """\
def execute_command(image) -> str:
  image_patch = ImagePatch(image)
  mug_patches = image_patch.find("mug")
  if not image_patch.exists("mug"):
    return image_patch.simple_query("What is there?")
  mug_patches.sort(key=lambda mug: mug.horizontal_center)
  leftmost = mug_patches[0]
  if leftmost.verify_property("mug", "blue"):
    color = leftmost.best_text_match(["navy blue", "sky"], prefix="a mug in")
    return f"{color} on the left"
  guess = llm_query("Which colors do mugs have?", long_answer=False)
  return process_guesses("Which color?", [guess])
"""


def test_a_program_for_vipergpt_runs_with_its_api(tmp_path, capsys):
  path = tmp_path / "program.py"
  path.write_text(VIPER)
  assert try_program.main(["--program", str(path), "--api", "viper"]) == 0
  output = capsys.readouterr().out
  assert output.startswith("status: ok\nanswer: sky on the left\n")
  assert "verify_property('mug', 'blue') on 0 0 999 499 -> True" in output
  assert try_program.main(["--program", str(path), "--api", "vpd"]) == 1
  assert "error class: attribute" in capsys.readouterr().out


def test_a_program_that_needs_an_image_and_has_none(program, capsys):
  arguments = ["--program", str(program), "--tools", "world"]
  assert try_program.main(arguments) == 1
  output = capsys.readouterr().out
  assert "error class: bad_image\n" in output
  assert (
    "message: line 2: find looks at pixels, and there is no image" in output
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--batch", "x"], "--batch and --out go together"),
    (["--program", "x", "--out", "x"], "--batch and --out go together"),
    (
      ["--batch", "x", "--out", "x", "--image", "x"],
      "--image goes with --program",
    ),
    (["--batch", "x", "--program", "x"], "not allowed with argument --batch"),
    ([], "one of the arguments --program --batch is required"),
    (["--program", "x", "--tools", "magic"], "invalid choice: 'magic'"),
    (["--program", "x", "--api", "magic"], "invalid choice: 'magic'"),
    (["--program", "x", "--wall_time_s", "soon"], "invalid float value"),
    (
      ["--batch", "x", "--out", "x", "--in_flight", "many"],
      "invalid int value",
    ),
  ],
)
def test_arguments_that_make_no_sense(arguments, message, capsys):
  with pytest.raises(SystemExit) as e:
    try_program.main(arguments)
  assert e.value.code == 2
  assert message in capsys.readouterr().err


class TestBatch:
  def run(self, folder, *arguments):
    paths = ("--batch", str(folder / "in.jsonl"), "--out", str(folder / "out"))
    return try_program.main([*paths, *arguments])

  @pytest.fixture(autouse=True)
  def _rows(self, tmp_path):
    rows = [
      {"id": "good", "program": _PROGRAM, "gold": 2},
      {"id": "bad", "program": "def execute_command(image): return [][0]"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "in.jsonl").write_text(text)

  def test_all_rows_were_run_whatever_came_of_them(self, tmp_path, capsys):
    assert self.run(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 programs in ")
    assert sorted(line.split() for line in lines[1:]) == [
      ["1", "index"],
      ["1", "ok"],
    ]
    rows = [json.loads(s) for s in (tmp_path / "out").read_text().splitlines()]
    assert [(r["id"], r["answer"], r.get("is_correct")) for r in rows] == [
      ("good", "2", True),
      ("bad", None, None),
    ]

  @pytest.mark.parametrize("in_flight", ["0", "-1", "513"])
  def test_in_flight_out_of_range(self, tmp_path, capsys, in_flight):
    assert self.run(tmp_path, "--in_flight", in_flight) == 2
    errors = capsys.readouterr().err
    assert f"error: in_flight={in_flight} must be from 1 to 512" in errors
    assert not (tmp_path / "out").exists()

  def test_a_wall_time_that_makes_no_sense(self, tmp_path, capsys):
    assert self.run(tmp_path, "--wall_time_s", "0") == 2
    assert "error: wall_time_s=0.0 must be" in capsys.readouterr().err

  def test_bad_input_is_one_line(self, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text("{}\n")
    assert self.run(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    path = tmp_path / "in.jsonl"
    assert error.startswith(f"error: {path}, line 1: 'id' must be")
    path.unlink()
    assert self.run(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and str(path) in error

  def test_answers_are_kept_for_the_next_run(self, tmp_path):
    cache = tmp_path / "cache"
    kept = ("--cache_dir", str(cache))
    results = []
    for options in ((), kept, kept):
      assert self.run(tmp_path, *options) == 0
      lines = (tmp_path / "out").read_text().splitlines()
      rows = [json.loads(line) for line in lines]
      results.append([row | {"wall_s": 0} for row in rows])
    assert results[0] == results[1] == results[2]
    assert list(cache.glob("*.sqlite3"))
