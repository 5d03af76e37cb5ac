"""The train loop in this process: what it writes, how it stops and goes on."""

import contextlib
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from tests import configs, train_runs
from vpd_jax import late, run_record, stopping, trees
from vpd_jax.checkpoint import store
from vpd_jax.evaluators import vqa
from vpd_jax.logs import goodput, writer

STEPS, EVALUATED = 8, 4


@pytest.fixture(scope="module")
def data_dir():
  return train_runs.data()


def _config(data_dir, **changes):
  config = configs.load("debug.py", f"steps={STEPS}")
  config.data_dir = data_dir
  config.log_every_steps = 2
  config.checkpoint.every_steps = 3
  validation = dict(modes=("direct",), every_steps=EVALUATED)
  config.update(evaluators=dict(validation=validation), **changes)
  return config


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  return workdir, train_runs.train(_config(data_dir), workdir)


def test_what_a_logged_step_says(unbroken):
  workdir, _ = unbroken
  rows = [row for row in writer.read(workdir) if "loss" in row]
  assert [row["step"] for row in rows] == [2, 4, 6, 8]
  for row in rows:
    assert row["examples_per_s"] > 0 and row["target_tokens_per_s"] > 0
    assert 0 <= row["input_wait_share"] <= 1
    assert row["model_tflops_per_s_per_device"] > 0
    assert row["host_peak_gib"] > 0.05
    assert "mfu" not in row  # Nobody says what a CPU's peak is.


def test_seconds_are_all_told_and_flops_are_counted(unbroken):
  workdir, printed = unbroken
  training = run_record.read_training(workdir)
  seconds = training["seconds"]
  assert set(seconds) == set(goodput.KINDS)
  assert seconds["compile"] > 0 and seconds["evaluation"] > 0
  assert training["train_seconds"] == seconds["step"] + seconds["input"]
  assert training["train_flops"] > 0
  assert re.search(r"debug: done at step 8: .* of \d+ s\.", printed)


def test_where_a_run_starts_is_said_with_the_rule(unbroken):
  _, printed = unbroken
  assert printed.startswith(
    "debug: starting at step 0 from fresh weights (rule: its own checkpoint,"
    " else config.init, else fresh weights)."
  )


def _evaluations(workdir):
  return [row for row in writer.read(workdir) if "loss" not in row]


@contextlib.contextmanager
def _at(step, do):
  """Inside, a loop calls it once, when this step has been sent off."""

  def add(self, at_step, metrics, send=late.Late.add):
    send(self, at_step, metrics)
    if at_step == step:
      do()

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(late.Late, "add", add)
    yield


@pytest.mark.parametrize("step", [EVALUATED, STEPS - 1, STEPS])
def test_a_signal_saves_at_that_step_and_the_run_goes_on_as_if_unbroken(
  data_dir, unbroken, tmp_path, step
):
  """What was to be evaluated then, is when the run goes on, before its next."""

  def kill():
    os.kill(os.getpid(), signal.SIGTERM)

  message = f"saved at step {step}"
  with (
    _at(step, kill),
    pytest.raises(stopping.Stopped, match=message) as caught,
  ):
    train_runs.train(_config(data_dir), tmp_path)
  assert caught.value.exit_code == 143
  assert not (tmp_path / "training.json").exists()
  assert [row["step"] for row in _evaluations(tmp_path)] == (
    [EVALUATED] if step > EVALUATED else []
  )
  # The best step is then noted in no checkpoint; another cut changes nothing.
  if step == EVALUATED:
    with _at(step + 1, _cut), pytest.raises(_Cut):
      train_runs.train(_config(data_dir), tmp_path)
    assert [row["step"] for row in _evaluations(tmp_path)] == [EVALUATED]
  assert f"resuming at step {step}" in train_runs.train(
    _config(data_dir), tmp_path
  )
  assert train_runs.losses(tmp_path) == train_runs.losses(unbroken[0])
  assert _evaluations(tmp_path) == _evaluations(unbroken[0])
  training = [run_record.read_training(w) for w in (unbroken[0], tmp_path)]
  for name in ("best_step", "best_value"):
    assert training[0][name] == training[1][name]
  best = training[0]["best_step"]
  for folder, at_step in (("checkpoints", STEPS), ("best", best)):
    a, b = (
      train_runs.saved(w, at_step, folder) for w in (unbroken[0], tmp_path)
    )
    for name in a | b:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class _Cut(BaseException):
  """As if the machine were gone: nobody catches it."""


def _cut():
  raise _Cut


def _with_values(values):
  """Evaluation at step n gives the nth value; from 2, each second step."""
  found = iter(values)
  patch = pytest.MonkeyPatch()
  patch.setattr(
    vqa.Evaluator, "run", lambda *_: {"direct_accuracy": next(found)}
  )
  return contextlib.closing(_Undo(patch))


class _Undo:
  def __init__(self, patch):
    self.close = patch.undo


def _often(data_dir):
  config = _config(data_dir, checkpoint=dict(every_steps=100))
  config.evaluators.validation.every_steps = 2
  return config


def test_a_better_step_is_saved_so_that_its_checkpoint_names_it(
  data_dir, tmp_path
):
  with (
    _with_values([0.1, 0.2, 0.0]),
    _at(7, _cut),
    pytest.raises(_Cut),
  ):
    train_runs.train(_often(data_dir), tmp_path)
  assert os.listdir(tmp_path / "best") == ["4"]
  assert set(os.listdir(tmp_path / "checkpoints")) == {"2", "4"}
  with _with_values([0.1, 0.0]):
    said = train_runs.train(_often(data_dir), tmp_path)
  assert "resuming at step 4" in said
  training = run_record.read_training(tmp_path)
  assert (training["best_step"], training["best_value"]) == (4, 0.2)
  assert train_runs.saved(tmp_path, 4, "best")


def test_a_best_step_that_is_gone_is_forgotten(data_dir, tmp_path):
  """Cut off after a better step replaced it, before that one's checkpoint."""

  def save(self, step, *rest, do=store.Store.save):
    if step == 4 and self._directory.name == "checkpoints":
      raise _Cut
    do(self, step, *rest)

  with (
    pytest.MonkeyPatch.context() as patch,
    _with_values([0.5, 0.6]),
    pytest.raises(_Cut),
  ):
    patch.setattr(store.Store, "save", save)
    train_runs.train(_often(data_dir), tmp_path)
  assert os.listdir(tmp_path / "best") == ["4"]
  # This machine rounds otherwise: none is as good again.
  with _with_values([0.1, 0.3, 0.2]):
    said = train_runs.train(_often(data_dir), tmp_path)
  assert "resuming at step 2" in said
  training = run_record.read_training(tmp_path)
  assert (training["best_step"], training["best_value"]) == (6, 0.3)
  assert train_runs.saved(tmp_path, 6, "best")
  # Gone again, when there is no step left that could be better.
  shutil.rmtree(tmp_path / "best")
  with _with_values([0.4]):
    train_runs.train(_often(data_dir), tmp_path)
  training = run_record.read_training(tmp_path)
  assert (training["best_step"], training["best_value"]) == (STEPS, 0.4)
  assert train_runs.saved(tmp_path, STEPS, "best")
  assert [row["step"] for row in _evaluations(tmp_path)] == [2, 4, 6, 8]


def test_not_finite_names_its_examples_and_is_nowhere_saved(data_dir, tmp_path):
  config = _config(data_dir, optim=dict(lr=1e20, warmup_steps=0))
  message = (
    r"the (loss|grad_norm) is (nan|inf).* at step (\d), on the examples \S+, "
  )
  with pytest.raises(ValueError, match=message) as caught:
    train_runs.train(config, tmp_path)
  found = re.search(r"at step (\d)", str(caught.value))
  assert found is not None
  record = json.loads((tmp_path / "bad_batch.json").read_text())
  assert record["step"] == int(found[1])
  assert len(record["example_ids"]) == config.input.batch_size
  assert set(os.listdir(tmp_path / "checkpoints")) <= {"3"}
  assert os.listdir(tmp_path / "best") == []


@pytest.mark.slow
def test_all_options_together_on_a_mesh(data_dir, tmp_path):
  """Adafactor over fsdp, parts of a batch, averages, a trace, no evaluator."""
  config = _config(
    data_dir,
    total_steps=4,
    input=dict(batch_size=16),
    optim=dict(
      name="adafactor",
      schedule="rsqrt",
      min_factored=8,
      accumulate=2,
      ema_decay=0.5,
    ),
    sharding=dict(strategy="fsdp", mesh=dict(data=2, fsdp=4)),
  )
  config.select = ""
  config.evaluators = {}
  config.profile = dict(start_step=3, num_steps=1)
  train_runs.train(config, tmp_path)
  losses = train_runs.losses(tmp_path)
  assert losses[4] < losses[2]
  saved = train_runs.saved(tmp_path, 4)
  ema = {n: x for n, x in saved.items() if n.startswith("ema/")}
  assert ema
  for name, averaged in ema.items():
    moved = saved[name.replace("ema/", "params/", 1)]
    assert averaged.shape == moved.shape
  kernel = "head/kernel"
  assert np.abs(saved[f"ema/{kernel}"] - saved[f"params/{kernel}"]).max() > 0
  # The best step is the last where nothing selects; it is the averages.
  assert run_record.read_training(tmp_path)["best_step"] == 4
  best = store.restore_params(tmp_path / "best", 4, _nest(ema, "ema/"))
  jax.tree.map(np.testing.assert_array_equal, best, _nest(ema, "ema/"))
  assert any((tmp_path / "profile").rglob("*.xplane.pb"))


def _nest(named, prefix):
  return trees.nest({n.removeprefix(prefix): x for n, x in named.items()})


@pytest.mark.parametrize(
  "section,message",
  [
    (dict(profile=dict(begin=3)), "config.profile.begin is no option"),
    (dict(log=dict(wand="x")), "Did you mean 'config.log.wandb'"),
    (dict(profile=dict(start_step=-1)), "profile.start_step=-1"),
  ],
)
def test_a_misspelt_section_is_named(data_dir, tmp_path, section, message):
  config = _config(data_dir)
  for name, value in section.items():
    config[name] = value
  with pytest.raises(ValueError, match=message):
    train_runs.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
