"""The command line of data_gen: what it takes, and what it says of mistakes."""

import fcntl
import json
import subprocess
import sys
import time

import pytest

from data_gen import run, stage
from tests import configs

WORLD = configs.ROOT / "configs/data_gen/world.py"
SMALL = [
  "--config.num_workers=2",
  "--config.splits.train.num_images=3",
  "--config.splits.validation.num_images=1",
  "--config.splits.test_iid.num_images=1",
  "--config.splits.test_phrase.num_images=1",
  "--config.splits.test_relation.num_images=1",
]


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "data_gen.run", *arguments],
    cwd=configs.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


def get_config(**changes):
  return configs.tiny_world() | changes


def test_the_command_line(tmp_path):
  done = command(f"--config={WORLD}:size=tiny", f"--workdir={tmp_path}", *SMALL)
  assert done.returncode == 0, done.stderr
  assert "examples           28       28  100.0%" in done.stdout
  assert "questions   28 rows" in done.stderr
  seconds = json.loads((tmp_path / "timings.json").read_text())
  assert set(seconds) == {s.name for s in stage.STAGES}


def test_the_source_is_chosen_on_the_command_line():
  config, _ = run._parse(
    [
      "run",
      f"--config={WORLD}",
      "--workdir=W",
      "--config.source.preset=large",
      "--config.source.families=('attr', 'text')",
      "--config.source.questions_per_image=2",
    ]
  )
  assert config["source"] == {
    "name": "world",
    "preset": "large",
    "families": ("attr", "text"),
    "questions_per_image": 2,
    "setting": {"phrasings": 1},
  }


def test_help_is_quick():
  start = time.monotonic()
  done = command("--help")
  assert done.returncode == 0 and "--workdir" in done.stdout
  assert time.monotonic() - start < 2


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], "give both --config and --workdir"),
    (["--config=no.py", "--workdir=W"], "No such file or directory: 'no.py'"),
    (
      [f"--config={WORLD}:variant=k2", "--workdir=W"],
      "variant='k2' is not one of",
    ),
    (
      [f"--config={WORLD}", "--workdir=W", "--config.sandbox.cpu=3"],
      "--config.sandbox.cpu is not in the config file. Did you mean"
      " '--config.sandbox.cpu_s'? --config.sandbox has: cpu_s, memory_mb,",
    ),
    (
      [f"--config={WORLD}", "--workdir=W", "--config.source.presett=large"],
      "error: --config.source.presett is not in the config file. Did you mean"
      " '--config.source.preset'? --config.source has: families, name, preset,"
      " questions_per_image, setting.",
    ),
    (
      [f"--config={WORLD}", "--workdir=W", "--config.seed.x=1"],
      "--config.seed.x is not in the config file. --config.seed has: no parts.",
    ),
    (
      [f"--config={WORLD}", "--workdir=W", "--config.seed=one"],
      "flag --config.seed=one: invalid literal",
    ),
    ([f"--config={WORLD}", "--workdri=W"], "Unknown command line flag"),
    ([f"--config={WORLD}", "--workdir=W", "x"], "unknown arguments ['x']"),
  ],
)
def test_a_bad_command_line_is_one_line_and_not_exit_0(
  arguments, message, capsys
):
  assert run.main(["run", *arguments]) == 1
  error = capsys.readouterr().err
  assert message in error
  assert "Traceback" not in error


def test_two_runs_in_one_workdir_are_refused(tmp_path):
  with (tmp_path / ".lock").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="in use by another run"):
      run.generate(get_config(), tmp_path)


def test_an_unwritable_workdir_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="file/x cannot be written to"):
    run.generate(get_config(), tmp_path / "file" / "x")


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"sandbx": {}}, r"config\.sandbx is no option\. Did you mean .*sandbox"),
    (
      {"sandbox": {"wal_time_s": 1}},
      r"config\.sandbox\.wal_time_s is no option\. Did you mean .*wall_time_s",
    ),
    (
      {"filter": {"modes": "x"}},
      r"config\.filter\.modes is no option\. Did you mean 'config\.filter\.mode'\?",
    ),
    ({"filter": {"mode": "x"}}, "neither 'filtered' nor 'unfiltered'"),
    ({"rationale": {"form": "x"}}, "neither 'short' nor 'sentences'"),
    ({"sampling": {"num_programs": 0}}, "must be 1 or more"),
    ({"max_drop_share": {"run": 1}}, r"Did you mean .*max_drop_share\.runs"),
  ],
)
def test_a_bad_config_stops_before_anything_is_made(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    run.generate(get_config(**changes), tmp_path / "work")
  assert not (tmp_path / "work").exists()


def test_an_unknown_backend_names_the_nearest(tmp_path):
  with pytest.raises(KeyError, match="Did you mean 'grammar'"):
    run.generate(get_config(llm={"name": "gramar"}), tmp_path)
