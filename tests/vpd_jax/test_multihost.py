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

# In make hosts, which CI runs: three minutes or four.
pytestmark = pytest.mark.hosts

STEPS, EVERY = 6, 2


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
    "--config.evaluators.validation.every_steps=0",
    "--config.select=",
  ]


_EVALUATED = (
  f"--config.evaluators.validation.every_steps={STEPS}",
  "--config.evaluators.validation.modes=('direct',)",
)


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
  """Workdir of a run of one process on 4 devices."""
  _train(base, base[0] / "one", 1, 4, *_EVALUATED)
  return base[0] / "one"


@pytest.fixture(scope="module")
def killed(base):
  """(workdir, ends, seconds to end) of two processes, the second of them killed."""
  workdir = base[0] / "two"
  runs = _start(base, workdir, 2, 4, *_EVALUATED)
  deadline = time.monotonic() + 250
  # In the middle of the second save, if this process is in time to see it; the
  # evaluation at the end leaves time.
  while not list((workdir / "checkpoints").glob(f"{2 * EVERY}*")):
    if time.monotonic() > deadline or runs[0].poll() is not None:
      break
    time.sleep(0.001)
  runs[1].send_signal(signal.SIGKILL)
  start = time.monotonic()
  return workdir, multihost.end(runs), time.monotonic() - start


@pytest.fixture(scope="module")
def two(base, killed):
  """(workdir, ends) of the same two processes, started again."""
  return killed[0], _train(base, killed[0], 2, 4, *_EVALUATED)


def _forget_last(workdir, copy):
  """A copy of a run that lacks its last checkpoint."""
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / "checkpoints" / str(STEPS))
  (copy / "training.json").unlink()
  return copy


def test_killed_process_is_named(killed):
  _, [(code, _, stderr), (other, _, _)], seconds = killed
  assert other == -signal.SIGKILL
  assert seconds < 30
  assert code == 1
  assert re.search(r"process 1 \(host .*\) ended without a word", stderr)


def test_two_processes_learn_as_one_though_one_was_killed(one, two):
  workdir, ends = two
  losses = _losses(one)
  assert sorted(losses) == list(range(1, STEPS + 1))
  assert losses[STEPS] < losses[1]
  _close(_losses(workdir), losses)
  assert _accuracy(workdir) == _accuracy(one)
  found = re.search(r"resuming at step (\d+)", ends[0][1])
  assert found and int(found[1]) >= EVERY  # The kill cost an interval.
  assert "2 processes (flags)" in ends[0][1]
  assert "train" not in ends[1][1]  # Process 0 alone reports.
  assert json.loads((workdir / "training.json").read_text())["steps"] == STEPS


def test_four_processes_learn_as_one(base, one, tmp_path):
  _train(base, tmp_path, 4, 1)
  losses = _losses(tmp_path)
  assert sorted(losses) == list(range(1, STEPS + 1))
  _close(losses, _losses(one))


@pytest.mark.parametrize("processes,devices", [(4, 2), (1, 4)])
def test_checkpoint_goes_on_in_other_processes(
  base, one, two, tmp_path, processes, devices
):
  workdir = _forget_last(two[0], tmp_path / "run")
  ends = _train(base, workdir, processes, devices)
  assert f"resuming at step {STEPS - EVERY}" in ends[0][1]
  _close(_losses(workdir), _losses(one))


def test_a_full_disk_ends_all_and_costs_one_save(base, one, two, tmp_path):
  workdir = _forget_last(two[0], tmp_path / "run")
  # The nearest to a full disk that needs no mount: no file over 100 kB.
  script = (
    "import resource, runpy, sys;"
    " resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    " runpy.run_module(sys.argv.pop(1), run_name='__main__')"
  )
  flags = ["-c", script, *base[1][1:]]
  start = time.monotonic()
  ends = multihost.end(_start((base[0], flags), workdir, 2, 2))
  assert time.monotonic() - start < 90, ends
  assert [code for code, _, _ in ends] == [1, 1], ends
  for _, _, stderr in ends:
    # Of the last steps or of the best one, whichever is first.
    assert "cannot write a checkpoint to " in stderr, stderr
  ends = _train(base, workdir, 2, 2)
  assert f"resuming at step {STEPS - EVERY}" in ends[0][1]
  _close(_losses(workdir), _losses(one))


def test_sigterm_to_one_saves_on_all_at_one_step(base, tmp_path):
  flags = ("--config.total_steps=4000", "--config.checkpoint.every_steps=4000")
  runs = _start(base, tmp_path, 2, 2, *flags)
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


def test_what_training_does_not_show(tmp_path):
  port = multihost.free_port()
  worker = "tests/vpd_jax/multihost_worker.py"
  runs = [
    multihost.start(
      ["-m", worker[:-3].replace("/", "."), port, 2, number, tmp_path], 3
    )
    for number in range(2)
  ]
  for code, stdout, stderr in multihost.end(runs):
    assert code == 0 and "ok" in stdout, stderr
