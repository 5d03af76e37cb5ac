"""Training in 1, 2 and 4 processes: one loss curve; kills, signals, restarts."""

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest

from data_gen import run as data_gen_run
from tests import configs
from tests.vpd_jax import multihost
from vpd_jax.logs import writer

STEPS, EVERY = 8, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """(folder, flags of every run)."""
  folder = tmp_path_factory.mktemp("multihost")
  data_gen_run.generate(configs.tiny_world(), folder / "data")
  return folder, [
    "-m",
    "vpd_jax.train",
    f"--config={multihost.CONFIG}",
    f"--config.data_dir={folder / 'data' / 'examples'}",
    f"--config.total_steps={STEPS}",
    f"--config.checkpoint.every_steps={EVERY}",
    "--config.log_every_steps=1",
    "--config.sharding.strategy=fsdp",
    "--config.sharding.mesh.fsdp=2",
    f"--config.evaluators.validation.every_steps={STEPS}",
  ]


def _start(base, workdir, processes, devices, *flags):
  port = multihost.free_port()
  command = [*base[1], f"--workdir={workdir}", *flags]
  return [
    multihost.start(
      [*command, *multihost.member(port, processes, number)], devices
    )
    for number in range(processes)
  ]


def _train(base, workdir, processes, devices, *flags):
  ends = multihost.end(_start(base, workdir, processes, devices, *flags))
  for code, _, stderr in ends:
    assert code == 0, stderr
  return ends


def _losses(workdir):
  return {r["step"]: r["loss"] for r in writer.read(workdir) if "loss" in r}


def _accuracy(workdir):
  key = "validation/direct_accuracy"
  return [row[key] for row in writer.read(workdir) if key in row]


def _close(found, expected):
  # float32: the sums over devices are taken in another order.
  np.testing.assert_allclose(
    [found[step] for step in sorted(found)],
    [expected[step] for step in sorted(found)],
    rtol=1e-5,
  )


@pytest.fixture(scope="module")
def one(base):
  """Workdir of a run of one process on 8 devices."""
  _train(base, base[0] / "one", 1, 8)
  return base[0] / "one"


@pytest.fixture(scope="module")
def two(base):
  """(workdir, ends) of a run of two processes on 4 devices each."""
  return base[0] / "two", _train(base, base[0] / "two", 2, 4)


def _forget_last(workdir, copy):
  """A copy of a run that has only its first checkpoint."""
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / "checkpoints" / str(STEPS))
  (copy / "training.json").unlink()
  return copy


def test_two_processes_learn_as_one(one, two):
  workdir, ends = two
  losses = _losses(one)
  assert sorted(losses) == list(range(1, STEPS + 1))
  assert losses[STEPS] < losses[1]
  _close(_losses(workdir), losses)
  assert _accuracy(workdir) == _accuracy(one)
  assert "2 processes (flags)" in ends[0][1]
  assert "train" not in ends[1][1]  # Process 0 alone reports.
  assert json.loads((workdir / "training.json").read_text())["steps"] == STEPS


@pytest.mark.parametrize("processes,devices", [(4, 2), (1, 4)])
def test_checkpoint_goes_on_in_other_processes(
  base, one, two, tmp_path, processes, devices
):
  workdir = _forget_last(two[0], tmp_path / "run")
  ends = _train(base, workdir, processes, devices)
  assert f"resuming at step {EVERY}" in ends[0][1]
  _close(_losses(workdir), _losses(one))


def test_killed_process_is_named_and_costs_one_interval(base, two, tmp_path):
  runs = _start(base, tmp_path, 2, 4)
  folder = tmp_path / "checkpoints"
  deadline = time.monotonic() + 250
  # In the middle of the second save, if this process is in time to see it.
  while not list(folder.glob(f"{STEPS}*")):
    if time.monotonic() > deadline or runs[0].poll() is not None:
      break
    time.sleep(0.001)
  runs[1].send_signal(signal.SIGKILL)
  killed = time.monotonic()
  (code, _, stderr), (other, _, _) = multihost.end(runs)
  assert other == -signal.SIGKILL
  assert time.monotonic() - killed < 30
  assert code == 1
  assert re.search(r"process 1 \(host .*\) ended without a word", stderr)
  ends = _train(base, tmp_path, 2, 4)
  assert re.search(rf"resuming at step ({EVERY}|{STEPS})", ends[0][1])
  _close(_losses(tmp_path), _losses(two[0]))


def test_sigterm_to_one_saves_on_all_at_one_step(base, tmp_path):
  flags = ("--config.total_steps=4000", "--config.checkpoint.every_steps=4000")
  flags = (*flags, "--config.evaluators.validation.every_steps=4000")
  runs = _start(base, tmp_path, 2, 4, *flags)
  deadline = time.monotonic() + 250
  while not (tmp_path / "metrics.jsonl").exists() or len(_losses(tmp_path)) < 2:
    assert time.monotonic() < deadline and runs[0].poll() is None
    time.sleep(0.1)
  runs[1].send_signal(signal.SIGTERM)
  ends = multihost.end(runs)
  assert [code for code, _, _ in ends] == [143, 143], ends
  [saved] = [
    p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()
  ]
  assert all(f"step {saved}" in stdout + stderr for _, stdout, stderr in ends)


def test_rows_that_straddle_processes():
  port = multihost.free_port()
  worker = "tests/vpd_jax/multihost_worker.py"
  runs = [
    multihost.start(["-m", worker[:-3].replace("/", "."), port, 2, number], 3)
    for number in range(2)
  ]
  for code, stdout, stderr in multihost.end(runs):
    assert code == 0 and "ok" in stdout, stderr
