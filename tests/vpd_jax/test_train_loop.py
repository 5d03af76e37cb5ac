"""The train loop in this process: what it writes, how it stops and goes on."""

import contextlib
import io
import json
import os
import re

import jax
import numpy as np
import pytest

from data_gen import run as data_gen_run
from tests import configs
from vpd_jax import late, run_record, stopping, trees
from vpd_jax.checkpoint import store
from vpd_jax.logs import goodput, writer

STEPS = 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("data")
  data_gen_run.generate(configs.tiny_world(), workdir)
  return str(workdir / "examples")


@pytest.fixture(scope="module")
def train():
  """`train.train`, which gives what it printed."""
  # Its module declares flags, as a command's does; here nobody parses them.
  from absl import flags

  flags.FLAGS.unparse_flags()
  from vpd_jax import train as module

  flags.FLAGS.mark_as_parsed()

  def run(config, workdir):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
      module.train(config, str(workdir))
    return out.getvalue()

  return run


def _config(data_dir, **changes):
  config = configs.load("debug.py", f"steps={STEPS}")
  config.data_dir = data_dir
  config.log_every_steps = 2
  config.checkpoint.every_steps = 3
  validation = dict(modes=("direct",), every_steps=STEPS)
  config.update(evaluators=dict(validation=validation), **changes)
  return config


@pytest.fixture(scope="module")
def unbroken(train, data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  return workdir, train(_config(data_dir), workdir)


def _saved(workdir, at_step):
  opened = store.Store(workdir / "checkpoints", is_read_only=True)
  tree = opened._manager.item_metadata(at_step)["state"].tree
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), tree
  )
  return trees.flatten_with_names(opened.restore(at_step, abstract)[0])


def _losses(workdir):
  return {r["step"]: r["loss"] for r in writer.read(workdir) if "loss" in r}


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


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_saves_at_that_step_and_the_run_goes_on_as_if_unbroken(
  train, data_dir, unbroken, tmp_path, monkeypatch, number
):
  def add(self, at_step, metrics, send=late.Late.add):
    send(self, at_step, metrics)
    if at_step == 5:  # Step 5 is under way; 3 was saved, 6 would be next.
      os.kill(os.getpid(), number)

  with monkeypatch.context() as patch:
    patch.setattr(late.Late, "add", add)
    with pytest.raises(stopping.Stopped, match="saved at step 5") as caught:
      train(_config(data_dir), tmp_path)
  assert caught.value.exit_code == 128 + number
  assert not (tmp_path / "training.json").exists()
  assert "resuming at step 5" in train(_config(data_dir), tmp_path)
  assert _losses(tmp_path) == _losses(unbroken[0])
  a, b = _saved(unbroken[0], STEPS), _saved(tmp_path, STEPS)
  for name in a | b:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_not_finite_names_its_examples_and_is_nowhere_saved(
  train, data_dir, tmp_path
):
  config = _config(data_dir, optim=dict(lr=1e20, warmup_steps=0))
  message = (
    r"the (loss|grad_norm) is (nan|inf).* at step (\d), on the examples \S+, "
  )
  with pytest.raises(ValueError, match=message) as caught:
    train(config, tmp_path)
  found = re.search(r"at step (\d)", str(caught.value))
  assert found is not None
  record = json.loads((tmp_path / "bad_batch.json").read_text())
  assert record["step"] == int(found[1])
  assert len(record["example_ids"]) == config.input.batch_size
  assert set(os.listdir(tmp_path / "checkpoints")) <= {"3"}
  assert os.listdir(tmp_path / "best") == []


def test_all_options_together_on_a_mesh(train, data_dir, tmp_path):
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
  config.profile = dict(start_step=2, num_steps=2)
  train(config, tmp_path)
  losses = _losses(tmp_path)
  assert losses[4] < losses[2]
  saved = _saved(tmp_path, 4)
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
def test_a_misspelt_section_is_named(
  train, data_dir, tmp_path, section, message
):
  config = _config(data_dir)
  for name, value in section.items():
    config[name] = value
  with pytest.raises(ValueError, match=message):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
