"""Runs with frozen weights in 8 and 4 bits: start, resume, export."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from tests import configs, train_runs
from vpd_jax import build, initial, step, trees
from vpd_jax.checkpoint import convert, model_folder, store
from vpd_jax.models import lora, quantized

pytest.importorskip("qwix", reason="needs vpd_jax[qlora]")

STEPS = 4


@pytest.fixture(scope="module")
def config():
  config = configs.load("debug.py", f"lora=true,steps={STEPS}")
  config.data_dir = train_runs.data()
  config.evaluators.validation.every_steps = STEPS
  config.evaluators.validation.modes = ("direct",)
  config.checkpoint.every_steps = 2
  return config


def _with(config, **changes):
  config = config.copy_and_resolve_references()
  for name, value in changes.items():
    if name == "frozen_dtype":
      config.optim.frozen_dtype = value
    else:
      config[name] = value
  return config


def _weights(config):
  """Float weights of the config's base, by name."""
  with train_runs.shared(config):
    state = initial.init_state(config, build.build(config))
  base = trees.flatten_with_names(state.all_params)
  return {n: np.asarray(x) for n, x in base.items() if not lora.is_update(n)}


@pytest.mark.parametrize("dtype,kind", [("int8", "folder"), ("nf4", "file")])
def test_weights_are_quantized_as_they_are_loaded(
  config, dtype, kind, tmp_path
):
  weights = _weights(_with(config, seed=3))
  path = tmp_path / "base"
  if kind == "folder":
    arrays = {n: convert.in_memory(x, n) for n, x in weights.items()}
    model_folder.write(path, "pali", {}, arrays)
  else:
    store.save_params(path, trees.nest(weights), dtype="float32")
  of_base = _with(config, init=str(path), frozen_dtype=dtype)
  of_base.sharding = dict(
    strategy="fsdp_tensor", mesh=dict(data=2, fsdp=2, tensor=2)
  )
  parts = build.build(of_base)
  state = initial.init_state(of_base, parts)
  jax.tree.map(
    lambda x, abstract: (
      (x.shape, x.dtype, x.sharding)
      == (abstract.shape, abstract.dtype, abstract.sharding)
      or pytest.fail(str(abstract))
    ),
    state,
    parts.state,
  )
  found = trees.flatten_with_names(state.all_params)
  for name, value in weights.items():
    if not name.endswith("/kernel"):
      np.testing.assert_array_equal(found[name], value)
      continue
    expected = jax.jit(quantized.quantize, static_argnums=1)(value, dtype)
    for end in quantized.ARRAYS:
      np.testing.assert_array_equal(found[f"{name}/{end}"], expected[end])


def test_weights_of_another_model_are_named_as_in_the_file(config, tmp_path):
  weights = _weights(config)
  weights.pop("encoder/blocks/mlp/up/kernel")
  store.save_params(tmp_path / "base", trees.nest(weights))
  wrong = _with(config, init=str(tmp_path / "base"), frozen_dtype="int8")
  with pytest.raises(ValueError, match=r"missing encoder/blocks/mlp/up/kernel"):
    initial.init_state(wrong, build.build(wrong))


@pytest.mark.slow
def test_a_run_goes_on_and_is_restored(config, tmp_path):
  nf4 = _with(config, frozen_dtype="nf4")
  train_runs.train(nf4, tmp_path / "unbroken")
  shutil.copytree(tmp_path / "unbroken", tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(STEPS))
  train_runs.train(nf4, tmp_path / "cut")
  parts = build.build(nf4)
  abstract = parts.state._replace(frozen={})
  ends = []
  for name in ("unbroken", "cut"):
    folder = tmp_path / name / "checkpoints"
    opened = store.Store(folder, is_read_only=True)
    ends.append(opened.restore(STEPS, abstract)[0])
  jax.tree.map(np.testing.assert_array_equal, *ends)

  params = initial.restore_best(parts, tmp_path / "cut", STEPS)
  frozen = initial.init_state(nf4, parts).frozen
  named = trees.flatten_with_names(params)
  for name, value in trees.flatten_with_names(frozen).items():
    np.testing.assert_array_equal(named[name], value)
  # What export writes has the base's names and shapes, and is its update.
  model = quantized.restore(step.merge(parts.graphdef, params))
  merged = nnx.to_pure_dict(nnx.state(lora.merge(model), nnx.Param))
  base = _weights(config)
  trees.check_same(trees.flatten_with_names(merged), base, "the export")
