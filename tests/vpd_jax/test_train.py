"""Train, evaluate and export: whole commands from a shell, and messages."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import configs, entries, train_runs
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir():
  return train_runs.data()


def _flags(data_dir, workdir):
  return (
    *("--config", f"{ROOT}/configs/debug.py"),
    f"--config.data_dir={data_dir}",
    f"--workdir={workdir}",
  )


@pytest.fixture(scope="module")
def shell(data_dir):
  """Starts a command as a user does; on eight devices, as runs in here."""

  def start(entry, workdir, *flags):
    command = (sys.executable, "-m", f"vpd_jax.{entry}")
    return subprocess.Popen(
      [*command, *_flags(data_dir, workdir), *flags],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )

  return start


# Sooner, and nothing that is learnt is changed.
UNEVALUATED = (
  "--config.evaluators.validation.every_steps=0",
  "--config.select=",
)


def _end(process):
  """(exit code, stdout, stderr)."""
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  train_runs.train(_config(data_dir), workdir)
  return workdir


def _wait_for(folder, process):
  deadline = time.monotonic() + 120
  while not folder.is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)


def _config(data_dir, /, **changes):
  config = configs.load("debug.py", "")
  config.data_dir = str(data_dir)
  config.update_from_flattened_dict(changes)
  return config


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


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_as_an_unbroken_one(
  shell, unbroken, tmp_path
):
  process = shell("train", tmp_path, *UNEVALUATED)
  _wait_for(tmp_path / "checkpoints" / "10", process)
  process.send_signal(signal.SIGKILL)
  _end(process)
  assert not (tmp_path / "training.json").exists()
  code, out, err = _end(shell("train", tmp_path, *UNEVALUATED))
  assert code == 0, err
  assert "resuming at step" in out
  a, b = (train_runs.saved(workdir, 20) for workdir in (unbroken, tmp_path))
  for name in a | b:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  assert train_runs.losses(tmp_path) == train_runs.losses(unbroken)


def test_a_signal_ends_the_command_with_its_exit_code(shell, tmp_path):
  flags = ("--config.total_steps=100000", "--config.checkpoint.every_steps=2")
  process = shell("train", tmp_path, *UNEVALUATED, *flags)
  _wait_for(tmp_path / "checkpoints" / "2", process)
  process.send_signal(signal.SIGTERM)
  code, _, err = _end(process)
  assert code == 143
  assert "run the same command to go on" in err and "Traceback" not in err
  assert not (tmp_path / "training.json").exists()
  saved = store.Store(tmp_path / "checkpoints", is_read_only=True).latest_step()
  assert f"stopped and saved at step {saved};" in err


def test_evaluate_writes_predictions(data_dir, unbroken):
  entries.call("evaluate", *_flags(data_dir, unbroken))
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


def test_export_is_a_start_and_refused_by_another_model(
  data_dir, unbroken, tmp_path
):
  out = tmp_path / "weights.npz"
  entries.call("export", *_flags(data_dir, unbroken), f"--out={out}")
  changes = {"init": str(out), "total_steps": 5, "evaluators": {}, "select": ""}
  train_runs.train(_config(data_dir, **changes), tmp_path / "run")
  first = writer.read(tmp_path / "run")[0]["loss"]
  assert first < writer.read(unbroken)[0]["loss"]

  other = _config(data_dir, **changes, **{"model.size": "world"})
  message = r"weights.npz is of another model(.|\n)*vit/stem/1/kernel"
  with pytest.raises(ValueError, match=message):
    train_runs.train(other, tmp_path / "other")


def test_what_a_user_gets_wrong_is_a_line(shell, tmp_path):
  """All commands fail alike: a line each, and no traceback."""
  wrong = {
    "--config.optim.lrr=1": "config.optim has no 'lrr'. Did you mean 'lr'?",
    "--config.optim.lr.x=1": "config.optim.lr has no options of its own",
    "--config.zzz=1": "config has no 'zzz'. It has ['arm', 'checkpoint'",
    "--config.model.size=huge": "pali has no size 'huge'",
  }
  runs = {flag: shell("train", tmp_path / "run", flag) for flag in wrong}
  for flag, message in wrong.items():
    code, _, err = _end(runs[flag])
    assert code == 1
    assert f"error: {message}" in err and "Traceback" not in err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "name,value,message",
  [
    ("model.name", "pally", "Did you mean 'pali'"),
    ("loss.name", "fussed", "Did you mean 'fused'"),
    ("sharding.mesh.data", 3, "does not fit 8 devices"),
    ("select", "validation/acc", "'validation/direct_accuracy'"),
    ("evaluators.validation.split", "x", "no split 'x'"),
    ("input.vocab", "none", "no vocabulary 'none'"),
    ("data_dir", "/nowhere", "no data set folder /nowhere"),
    ("init", "/nowhere.npz", "/nowhere.npz"),
    ("optim.warmup_steps", 20, "warmup_steps=20"),
    ("input.lengths.rationale", 4, "lengths.rationale=4"),
  ],
)
def test_what_does_not_fit_is_named(data_dir, tmp_path, name, value, message):
  config = _config(data_dir, **{name: value})
  with pytest.raises((ValueError, KeyError, OSError), match=re.escape(message)):
    train_runs.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_unwritable_workdir_is_named(data_dir, tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("")
  with pytest.raises(OSError, match=rf"{blocker}.*--workdir"):
    train_runs.train(_config(data_dir), blocker / "run")


def test_damaged_shard_is_named(data_dir, tmp_path):
  copy = tmp_path / "examples"
  shutil.copytree(data_dir, copy)
  shard = next(copy.glob("*-train.tfrecord-*"))
  damaged = bytearray(shard.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  shard.write_bytes(bytes(damaged))
  with pytest.raises(ValueError, match=rf"{shard.name}.*checksum"):
    train_runs.train(_config(copy), tmp_path / "run")
  shard.unlink()
  with pytest.raises((ValueError, OSError), match="lacks 1 of") as caught:
    train_runs.train(_config(copy), tmp_path / "run2")
  assert shard.name in str(caught.value)


def test_another_config_in_a_finished_workdir_is_refused(data_dir, unbroken):
  before = (unbroken / "config.json").read_text()
  message = r"loss.rationale_weight: was 1.0, is 0"
  with pytest.raises(ValueError, match=message):
    train_runs.train(
      _config(data_dir, **{"loss.rationale_weight": 0.0}), unbroken
    )
  assert (unbroken / "config.json").read_text() == before
  # What does not decide what is learnt may change.
  train_runs.train(_config(data_dir, log_every_steps=7), unbroken)


@pytest.mark.parametrize("entry", ["train", "evaluate", "export"])
def test_help_answers_soon(entry):
  start = time.monotonic()
  command = [sys.executable, "-m", f"vpd_jax.{entry}", "--help"]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0 and "--config" in done.stdout
  # Two seconds on a quiet machine; the import of jax alone would take longer.
  assert "jax" not in done.stderr and time.monotonic() - start < 20
