"""The train and evaluate commands from a shell: runs, resumes, messages."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_gen import run as data_gen_run
from tests import configs
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("data")
  data_gen_run.generate(configs.tiny_world(), workdir)
  return workdir / "examples"


def _command(entry, data_dir, workdir, *flags):
  return [
    *(sys.executable, "-m", f"vpd_jax.{entry}"),
    f"--config={ROOT}/configs/debug.py",
    f"--config.data_dir={data_dir}",
    f"--workdir={workdir}",
    *flags,
  ]


# One device, as a user's; not the tests' eight.
ENV = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}


def _run(*args):
  return subprocess.run(
    _command(*args), capture_output=True, text=True, cwd=ROOT, env=ENV
  )


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  done = _run("train", data_dir, workdir)
  assert done.returncode == 0, done.stderr
  return workdir


def _final_params(workdir):
  training = json.loads((workdir / "training.json").read_text())
  import jax

  folder = workdir / "checkpoints"
  opened = store.Store(folder, is_read_only=True)
  tree = opened._manager.item_metadata(training["steps"])["state"].tree
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), tree
  )
  return opened.restore(training["steps"], abstract)[0]


def test_loss_falls_and_metrics_are_written(unbroken):
  rows = writer.read(unbroken)
  losses = [row["loss"] for row in rows if "loss" in row]
  assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
  assert losses[-1] < losses[0]
  for row in rows:
    if "loss" in row:
      total = row["loss_label"] + row["loss_rationale"]
      np.testing.assert_allclose(row["loss"], total, rtol=1e-5)
  accuracies = [r for r in rows if "validation/direct_accuracy" in r]
  assert [row["step"] for row in accuracies] == [10, 20]
  record = json.loads((unbroken / "config.json").read_text())
  assert record["config"]["optim"]["lr"] == 1e-2
  assert any((unbroken / "tensorboard").iterdir())


def test_killed_run_goes_on_and_ends_as_an_unbroken_one(
  data_dir, unbroken, tmp_path
):
  process = subprocess.Popen(
    _command("train", data_dir, tmp_path),
    cwd=ROOT,
    env=ENV,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 120
  while not (tmp_path / "checkpoints" / "10").is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "training.json").exists()
  done = _run("train", data_dir, tmp_path)
  assert done.returncode == 0, done.stderr
  assert "resuming at step" in done.stdout

  a, b = _final_params(unbroken), _final_params(tmp_path)
  import jax

  jax.tree.map(np.testing.assert_array_equal, a, b)

  def losses(workdir):
    return {r["step"]: r["loss"] for r in writer.read(workdir) if "loss" in r}

  assert losses(tmp_path) == losses(unbroken)


def test_a_signal_ends_the_command_with_its_exit_code(data_dir, tmp_path):
  process = subprocess.Popen(
    _command("train", data_dir, tmp_path, "--config.total_steps=100000"),
    cwd=ROOT,
    env=ENV,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 120
  while not (tmp_path / "checkpoints" / "5").is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 143
  assert "run the same command to go on" in err and "Traceback" not in err
  assert not (tmp_path / "training.json").exists()
  saved = store.Store(tmp_path / "checkpoints", is_read_only=True).latest_step()
  assert f"stopped and saved at step {saved};" in err


def test_evaluate_writes_predictions(data_dir, unbroken):
  done = _run("evaluate", data_dir, unbroken)
  assert done.returncode == 0, done.stderr
  lines = (unbroken / "predictions-validation.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(rows) == 12
  keys = {"example_id", "family", "direct", "direct_is_correct", "rationale"}
  assert keys <= set(rows[0])
  report = json.loads((unbroken / "evaluation.json").read_text())
  found = report["splits"]["validation"]["direct_accuracy"]
  by_hand = np.mean([row["direct_is_correct"] for row in rows])
  np.testing.assert_allclose(found, by_hand)
  assert report["train_flops"] > 0 and report["train_seconds"] > 0


def test_export_is_loaded_as_a_start(data_dir, unbroken, tmp_path):
  out = tmp_path / "weights.npz"
  done = _run("export", data_dir, unbroken, f"--out={out}")
  assert done.returncode == 0, done.stderr
  flags = (f"--config.init={out}", "--config.total_steps=5")
  done = _run("train", data_dir, tmp_path / "run", *flags)
  assert done.returncode == 0, done.stderr
  first = writer.read(tmp_path / "run")[0]["loss"]
  assert first < writer.read(unbroken)[0]["loss"]


def test_weights_of_another_model_are_refused(data_dir, unbroken, tmp_path):
  out = tmp_path / "weights.npz"
  _run("export", data_dir, unbroken, f"--out={out}")
  flags = (f"--config.init={out}", "--config.model.size=world")
  done = _run("train", data_dir, tmp_path / "run", *flags)
  assert done.returncode == 1
  assert "weights.npz is of another model" in done.stderr
  assert "vit/stem/1/kernel" in done.stderr


@pytest.mark.parametrize(
  "flags,message",
  [
    (["--config.optim.lrr=1"], r'Did you mean "lr"'),
    (["--config.model.size=huge"], "pali has no size 'huge'"),
    (["--config.model.name=pally"], "Did you mean 'pali'"),
    (["--config.loss.name=fussed"], "Did you mean 'fused'"),
    (["--config.sharding.mesh.data=3"], "does not fit 1 devices"),
    (["--config.input.batch_sise=8"], 'Did you mean "batch_size"'),
    (["--config.select=validation/acc"], "'validation/direct_accuracy'"),
    (["--config.evaluators.validation.split=x"], "no split 'x'"),
    (["--config.input.vocab=none"], "no vocabulary 'none'"),
    (["--config.data_dir=/nowhere"], "no data set folder /nowhere"),
    (["--config.init=/nowhere.npz"], "/nowhere.npz"),
    (["--config.optim.warmup_steps=20"], "warmup_steps=20"),
    (["--config.input.lengths.rationale=4"], "lengths.rationale=4"),
  ],
)
def test_what_a_user_gets_wrong_is_named(data_dir, tmp_path, flags, message):
  done = _run("train", data_dir, tmp_path / "run", *flags)
  assert done.returncode not in (0, None)
  assert message in done.stderr
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_unwritable_workdir_is_named(data_dir, tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("")
  done = _run("train", data_dir, blocker / "run")
  assert done.returncode == 1
  assert str(blocker) in done.stderr and "workdir" in done.stderr


def test_damaged_shard_is_named(data_dir, tmp_path):
  import shutil

  copy = tmp_path / "examples"
  shutil.copytree(data_dir, copy)
  shard = next(copy.glob("*-train.tfrecord-*"))
  damaged = bytearray(shard.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  shard.write_bytes(bytes(damaged))
  done = _run("train", copy, tmp_path / "run")
  assert done.returncode == 1
  assert shard.name in done.stderr and "checksum" in done.stderr
  shard.unlink()
  done = _run("train", copy, tmp_path / "run2")
  assert done.returncode == 1
  assert shard.name in done.stderr and "lacks 1 of" in done.stderr


def test_another_config_in_a_finished_workdir_is_refused(data_dir, unbroken):
  before = (unbroken / "config.json").read_text()
  done = _run("train", data_dir, unbroken, "--config.loss.rationale_weight=0")
  assert done.returncode == 1
  assert "loss.rationale_weight: was 1.0, is 0" in done.stderr
  assert (unbroken / "config.json").read_text() == before
  # What does not decide what is learnt may change.
  done = _run("train", data_dir, unbroken, "--config.log_every_steps=7")
  assert done.returncode == 0, done.stderr


def test_loss_that_is_not_finite_stops_before_a_checkpoint(data_dir, tmp_path):
  done = _run("train", data_dir, tmp_path / "run", "--config.optim.lr=1e20")
  assert done.returncode == 1
  assert " at step " in done.stderr and "on the examples" in done.stderr
  steps = store.Store(tmp_path / "run" / "checkpoints")
  assert steps.latest_step() in (None, 5)


@pytest.mark.parametrize("entry", ["train", "evaluate", "export"])
def test_help_answers_soon(entry):
  start = time.monotonic()
  command = [sys.executable, "-m", f"vpd_jax.{entry}", "--help"]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert "--config" in done.stdout
  # Two seconds on a quiet machine; the import of jax alone would take longer.
  assert "jax" not in done.stderr and time.monotonic() - start < 20
