"""Training of low-rank updates: from a shell, and what a config builds."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from data_gen import run as data_gen_run
from tests import configs
from vpd_jax import build, run_record, step, trees
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer
from vpd_jax.models import lora

STEPS = 6
ARGUMENT = f"lora=true,steps={STEPS}"
# One device, as a user's; not the tests' eight.
ENV = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("data")
  data_gen_run.generate(configs.tiny_world(), workdir)
  config = configs.load("debug.py", ARGUMENT)
  config.data_dir = str(workdir / "examples")
  return config


def _command(entry, config, workdir, *flags):
  return [
    *(sys.executable, "-m", f"vpd_jax.{entry}"),
    f"--config={configs.ROOT}/configs/debug.py:{ARGUMENT}",
    f"--config.data_dir={config.data_dir}",
    f"--config.evaluators.validation.every_steps={STEPS}",
    "--config.checkpoint.every_steps=2",
    "--config.log_every_steps=1",
    f"--workdir={workdir}",
    *flags,
  ]


def _run(*args):
  done = subprocess.run(
    _command(*args), capture_output=True, text=True, cwd=configs.ROOT, env=ENV
  )
  assert done.returncode == 0, done.stderr
  return done


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  _run("train", config, workdir)
  return workdir


def _saved(workdir, folder, at_step):
  opened = store.Store(workdir / folder, is_read_only=True)
  tree = opened._manager.item_metadata(at_step)["state"].tree
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), tree
  )
  return trees.flatten_with_names(opened.restore(at_step, abstract)[0])


def test_checkpoints_hold_updates_and_the_rest_is_there_once(config, unbroken):
  names = set(trees.flatten_with_names(build.build(config).state.all_params))
  updates = {n for n in names if lora.is_update(n)}
  assert updates and set(_saved(unbroken, "frozen", 0)) == names - updates
  for folder, at_step in (("checkpoints", STEPS), ("best", STEPS)):
    saved = _saved(unbroken, folder, at_step)
    params = {n.removeprefix("params/") for n in saved if n[:7] == "params/"}
    assert params == updates
    assert not any(n.startswith("frozen") for n in saved)


def test_killed_run_goes_on_and_ends_as_an_unbroken_one(
  config, unbroken, tmp_path
):
  """Bit for bit, dropout too: its keys are those of the step's number."""
  process = subprocess.Popen(
    _command("train", config, tmp_path),
    cwd=configs.ROOT,
    env=ENV,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 300
  while not (tmp_path / "checkpoints" / "2").is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert "resuming at step" in _run("train", config, tmp_path).stdout
  for folder, at_step in (("checkpoints", STEPS), ("frozen", 0)):
    a, b = (_saved(w, folder, at_step) for w in (unbroken, tmp_path))
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
  losses = [
    {r["step"]: r["loss"] for r in writer.read(w) if "loss" in r}
    for w in (unbroken, tmp_path)
  ]
  assert losses[0] == losses[1] and len(losses[0]) == STEPS


def test_best_is_restored_whole_and_evaluated(config, unbroken):
  parts = build.build(config)
  best_step = run_record.read_training(unbroken)["best_step"]
  params = build.restore_best(parts, unbroken, best_step)
  named = trees.flatten_with_names(params)
  moved = [n for n in named if n.endswith("lora/b") and np.any(named[n])]
  assert len(moved) >= 10
  _run("evaluate", config, unbroken)
  assert (unbroken / "evaluation.json").is_file()


def test_merged_export_is_a_start_for_new_updates(config, unbroken, tmp_path):
  from flax import nnx

  parts = build.build(config)
  params = build.restore_best(parts, unbroken, STEPS)
  merged = lora.merge(step.merge(parts.graphdef, params))
  merged = nnx.to_pure_dict(nnx.state(merged, nnx.Param))
  _run("export", config, unbroken, f"--out={tmp_path / 'base.npz'}")
  again = config.copy_and_resolve_references()
  again.init = str(tmp_path / "base.npz")
  again.seed = 1
  again.optim.frozen_dtype = "bfloat16"
  parts = build.build(again)
  state = build.init_state(again, parts)
  jax.tree.map(
    lambda x, abstract: (
      (x.dtype, x.sharding) == (abstract.dtype, abstract.sharding)
      or pytest.fail(str(abstract))
    ),
    state,
    parts.state,
  )
  found = trees.flatten_with_names(state.all_params)
  for name, value in trees.flatten_with_names(merged).items():
    # bfloat16 has 8 bits, the float16 of the file 11, down to 2 ** -24.
    np.testing.assert_allclose(
      found[name].astype(np.float32), value, rtol=2**-7, atol=2**-24
    )
  for name, value in found.items():
    if lora.is_update(name):
      assert np.any(value) == name.endswith("/a"), name
  kernel = state.frozen["encoder"]["blocks"]["mlp"]["up"]["kernel"]
  assert kernel.dtype == jax.numpy.bfloat16


@pytest.mark.parametrize(
  "change,message",
  [
    ({"rnk": 2}, r"config\.model\.lora\.rnk is no option.*rank"),
    ({"patterns": ("encodr",)}, "'encodr' matches no projection"),
    ({"rank": 0}, r"lora\.rank=0"),
  ],
)
def test_what_a_user_gets_wrong_is_named(config, change, message):
  wrong = config.copy_and_resolve_references()
  wrong.model.lora = dict(wrong.model.lora) | change
  with pytest.raises(ValueError, match=message):
    build.build(wrong)


def test_presets_and_patterns_of_optim(config):
  preset = config.copy_and_resolve_references()
  del preset.model["lora"]
  preset.model.lora = "vpd_specialist_palix"
  state = build.build(preset).state
  assert set(state.params) == {"encoder"}
  # Said otherwise, other parameters train too.
  preset.optim.train = (lora.UPDATES, "projection/")
  assert set(build.build(preset).state.params) == {"encoder", "projection"}
