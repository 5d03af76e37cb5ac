"""The study's commands: lanes, and the whole quickstart at tiny size."""

import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import xla_flags

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
  spec = importlib.util.spec_from_file_location(
    "study", ROOT / "launch" / "study.py"
  )
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules["study"] = module
  spec.loader.exec_module(module)
  return module


def test_lanes_do_each_job_once_in_order(study):
  done, lock = [], threading.Lock()

  def do(job, cores):
    with lock:
      done.append((job, tuple(cores)))
    time.sleep(0.02)

  study.in_lanes([functools.partial(do, job) for job in "abcd"])
  assert sorted(job for job, _ in done) == ["a", "b", "c", "d"]
  assert {done[0][0], done[1][0]} == {"a", "b"} or len(
    os.sched_getaffinity(0)
  ) == 1
  used = {core for _, cores in done for core in cores}
  assert used <= os.sched_getaffinity(0)


def test_a_failed_job_ends_the_study(study):
  done = []

  def do(job, cores):
    del cores
    if job == "bad":
      raise SystemExit("error: bad")
    time.sleep(0.2)
    done.append(job)

  jobs = [functools.partial(do, job) for job in ("bad", *range(8))]
  with pytest.raises(SystemExit, match="error: bad"):
    study.in_lanes(jobs)
  assert len(done) <= 2


def test_a_base_is_trained_once_for_all_who_ask(study, tmp_path, monkeypatch):
  made = []

  def run(self, name, command, cores=()):
    time.sleep(0.05)
    out = next(c for c in command if c.startswith("--out=")).split("=")[1]
    pathlib.Path(out).parent.mkdir(parents=True)
    pathlib.Path(out).write_bytes(b"weights")
    made.append(name)

  monkeypatch.setattr(study.Study, "run", run)
  one = study.Study(tmp_path)
  study.in_lanes([functools.partial(one.base, seed) for seed in (0, 0, 1, 0)])
  assert sorted(made) == ["base s0", "base s1"]


def test_unwritable_workdir_is_named(tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("")
  done = _run(blocker / "study")
  assert done.returncode == 1
  assert f"error: cannot make the folder {blocker}" in done.stderr


def _command(workdir):
  return [
    *(sys.executable, "launch/study.py", "quickstart"),
    *(f"--workdir={workdir}", "--size=tiny", "--steps=2"),
  ]


ENV = os.environ | {"XLA_FLAGS": xla_flags.FLAGS}


def _run(workdir):
  return subprocess.run(
    _command(workdir), capture_output=True, text=True, cwd=ROOT, env=ENV
  )


@pytest.mark.slow
def test_quickstart_killed_once_ends_with_a_report(tmp_path):
  workdir = tmp_path / "study"
  process = subprocess.Popen(
    _command(workdir),
    cwd=ROOT,
    env=ENV,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  # A student's run has begun; what kills leave of one, test_train shows.
  deadline = time.monotonic() + 240
  while not (workdir / "runs" / "vpd").is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()

  done = _run(workdir)
  assert done.returncode == 0, done.stderr[-2000:]
  page = workdir / "report" / "index.html"
  assert str(page.resolve()) in done.stdout
  assert "VPD student" in page.read_text()
  assert "test_iid" in done.stdout
  for arm in ("vpd", "twin", "twin_equal_compute"):
    evaluation = json.loads(
      (workdir / "runs" / arm / "evaluation.json").read_text()
    )
    assert evaluation["splits"]["test_iid"]["num_questions"] == 12
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  assert {cost["arm"] for cost in summary["students_cost"]} == {
    "vpd",
    "twin",
    "twin_equal_compute",
  }
