"""Training of low-rank updates: runs, and what a config builds."""

import shutil

import jax
import numpy as np
import pytest

from tests import configs, train_runs
from vpd_jax import build, initial, run_export, run_record, step, trees
from vpd_jax.models import lora

STEPS = 6


@pytest.fixture(scope="module")
def config():
  config = configs.load("debug.py", f"lora=true,steps={STEPS}")
  config.data_dir = train_runs.data()
  config.evaluators.validation.every_steps = STEPS
  config.evaluators.validation.modes = ("direct",)
  config.checkpoint.every_steps = 2
  config.log_every_steps = 1
  return config


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  train_runs.train(config, workdir)
  return workdir


@pytest.mark.slow
def test_checkpoints_hold_updates_and_the_rest_is_there_once(config, unbroken):
  names = set(trees.flatten_with_names(build.build(config).state.all_params))
  updates = {n for n in names if lora.is_update(n)}
  assert (
    updates and set(train_runs.saved(unbroken, 0, "frozen")) == names - updates
  )
  for folder, at_step in (("checkpoints", STEPS), ("best", STEPS)):
    saved = train_runs.saved(unbroken, at_step, folder)
    params = {n.removeprefix("params/") for n in saved if n[:7] == "params/"}
    assert params == updates
    assert not any(n.startswith("frozen") for n in saved)


def test_a_run_goes_on_and_ends_as_an_unbroken_one(config, unbroken, tmp_path):
  """Bit for bit, dropout too: its keys are those of the step's number."""
  cut = tmp_path / "cut"
  shutil.copytree(unbroken, cut)
  for name in ("training.json", f"checkpoints/{STEPS}", "best"):
    path = cut / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
  assert f"resuming at step {STEPS - 2}" in train_runs.train(config, cut)
  for folder, at_step in (("checkpoints", STEPS), ("frozen", 0)):
    a, b = (train_runs.saved(w, at_step, folder) for w in (unbroken, cut))
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
  losses = train_runs.losses(cut)
  assert losses == train_runs.losses(unbroken) and len(losses) == STEPS


def test_best_is_restored_whole_and_evaluated(config, unbroken):
  parts = build.build(config)
  best_step = run_record.read_training(unbroken)["best_step"]
  params = initial.restore_best(parts, unbroken, best_step)
  named = trees.flatten_with_names(params)
  moved = [n for n in named if n.endswith("lora/b") and np.any(named[n])]
  assert len(moved) >= 10
  found = build.evaluators(config, parts)["validation"].run(params)
  training = run_record.read_training(unbroken)
  assert found["direct_accuracy"] == training["best_value"]


def test_merged_export_is_a_start_for_new_updates(config, unbroken, tmp_path):
  from flax import nnx

  parts = build.build(config)
  params = initial.restore_best(parts, unbroken, STEPS)
  merged = lora.merge(step.merge(parts.graphdef, params))
  merged = nnx.to_pure_dict(nnx.state(merged, nnx.Param))
  run_export.write(config, str(unbroken), str(tmp_path / "base.npz"))
  again = config.copy_and_resolve_references()
  again.init = str(tmp_path / "base.npz")
  again.seed = 1
  again.optim.frozen_dtype = "bfloat16"
  parts = build.build(again)
  state = initial.init_state(again, parts)
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
