"""The front door for one program."""

import io
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
