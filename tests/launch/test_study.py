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
from vpd_jax import host

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
  both_run = threading.Barrier(2)

  def do(job):
    with lock:
      done.append(job)
    both_run.wait(timeout=60)

  study.in_lanes([functools.partial(do, job) for job in "abcd"], 2)
  assert {*done[:2]} == {*"ab"} and sorted(done) == [*"abcd"]


def test_a_command_beside_others_gets_half_of_the_cores(
  study, tmp_path, monkeypatch
):
  monkeypatch.setattr(host, "usable_cores", lambda: 6)
  monkeypatch.delenv(host.THREADS_VARIABLE, raising=False)
  one = study.Study(tmp_path)
  for name, is_beside in (("beside", True), ("alone", False)):
    script = (
      "import os, sys;"
      f" open(sys.argv[1], 'w').write(os.getenv({host.THREADS_VARIABLE!r}, '-'))"
    )
    one.run(name, ["-c", script, str(tmp_path / name)], is_beside)
  assert (tmp_path / "beside").read_text() == "3"
  assert (tmp_path / "alone").read_text() == "-"


def test_xla_takes_as_many_threads_as_it_is_told():
  script = (
    "import os, jax.numpy as jnp; (jnp.ones((9, 9)) @ jnp.ones((9, 9)))"
    ".block_until_ready(); print(len(os.listdir('/proc/self/task')))"
  )
  few, many = (
    int(
      subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {host.THREADS_VARIABLE: threads},
        capture_output=True,
        text=True,
        check=True,
      ).stdout
    )
    for threads in ("1", "40")
  )
  assert many > few + 30


def test_a_failed_job_ends_the_study(study):
  done = []

  def do(job):
    if job == "bad":
      raise SystemExit("error: bad")
    time.sleep(0.2)
    done.append(job)

  jobs = [functools.partial(do, job) for job in ("bad", *range(8))]
  with pytest.raises(SystemExit, match="error: bad"):
    study.in_lanes(jobs, 2)
  assert len(done) <= 2


def test_a_base_is_trained_once_for_all_who_ask(study, tmp_path, monkeypatch):
  made = []

  def run(self, name, command, is_beside=False):
    time.sleep(0.05)
    out = next(c for c in command if c.startswith("--out=")).split("=")[1]
    pathlib.Path(out).parent.mkdir(parents=True)
    pathlib.Path(out).write_bytes(b"weights")
    made.append(name)

  monkeypatch.setattr(study.Study, "run", run)
  one = study.Study(tmp_path)
  seeds = (0, 0, 1, 0)
  study.in_lanes([functools.partial(one.base, seed) for seed in seeds], 2)
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
