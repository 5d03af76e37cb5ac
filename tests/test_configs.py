"""Front door: every config builds, and takes one step at tiny size."""

import math
import pathlib

import jax
import numpy as np
import pytest

from data_gen import stage
from tests import configs
from vpd_jax import build, step

EXPERIMENTS = (
  ("debug.py", ""),
  ("world_vpd.py", ""),
  ("world_vpd.py", "arm=twin"),
  ("world_vpd.py", "arm=twin_equal_compute"),
  ("world_vpd.py", "arm=replay"),
  ("world_base.py", "phase=caption"),
  ("world_base.py", "phase=mixture"),
)
DATA = (
  ("world.py", "size=tiny"),
  *(("world.py", f"variant={v}") for v in ("unfiltered", "k1", "clean")),
  *(("world.py", f"variant={v}") for v in ("pseudo", "mismatched")),
  ("world_base.py", "tasks=caption"),
  ("world_base.py", "tasks=mixture"),
  ("photos.py", None),
  ("own.py", None),
)


def _batch(config, parts, rows):
  """Arrays of a batch's shapes, or their ShapeDtypeStructs if rows is None."""
  lengths, px = config.input.lengths, config.input.image_px
  shapes = {"image": ((px, px, 3), np.uint8)}
  for task in ("label", "rationale"):
    shapes[f"{task}_prompt"] = ((lengths.prompt,), np.int32)
    shapes[f"{task}_target"] = ((lengths[task],), np.int32)
    shapes[f"{task}_weights"] = ((lengths[task],), np.float32)
  sharding = parts.batch_sharding
  if rows is not None:
    return {
      name: jax.device_put(np.ones((rows, *shape), dtype), sharding)
      for name, (shape, dtype) in shapes.items()
    }
  rows = config.input.batch_size
  return {
    name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }


def _compile(config, parts, state, batch):
  return step.compile_train_step(
    state,
    batch,
    graphdef=parts.graphdef,
    tx=parts.tx,
    loss=parts.loss,
    seed=config.seed,
  )


def test_all_configs_are_listed():
  root = pathlib.Path(configs.ROOT) / "configs"
  listed = {path for path, _ in EXPERIMENTS}
  assert {p.name for p in root.glob("*.py")} == listed
  listed = {path for path, _ in DATA}
  assert {p.name for p in (root / "data_gen").glob("*.py")} == listed


@pytest.mark.parametrize("path,arg", EXPERIMENTS)
def test_experiment_takes_a_step(path, arg):
  config = configs.load(path, arg)
  config.model.size = "debug"
  config.init = ""
  parts = build.build(config)
  state = build.init_state(config, parts)
  batch = _batch(config, parts, rows=8)
  state, metrics = _compile(config, parts, state, batch)(state, batch)
  assert int(state.step) == 1
  assert math.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize("path,arg", DATA)
def test_data_config_is_accepted(path, arg):
  if path == "photos.py":
    pytest.importorskip("skimage", reason="needs the extra [tools]")
  config = configs.load(f"data_gen/{path}", arg).to_dict()
  plan = stage.plan(config)
  assert [p.stage.name for p in plan] == list(config["stages"])


def test_equal_compute_is_equal_compute():
  """The longer twin takes as many FLOPs as the student, by XLA's count."""
  flops = {}
  for arm in ("vpd", "twin_equal_compute"):
    config = configs.load("world_vpd.py", f"arm={arm}")
    config.sharding.mesh.data = 8
    parts = build.build(config)
    batch = _batch(config, parts, rows=None)
    compiled = _compile(config, parts, parts.state, batch)
    per_device = compiled.cost_analysis()["flops"]
    flops[arm] = per_device * config.total_steps
  # Rounding of the ratio, and what does not shrink with the batch (Adam).
  ratio = flops["twin_equal_compute"] / flops["vpd"]
  assert 0.9 < ratio < 1.1


@pytest.mark.parametrize(
  "path,arg,message",
  [
    ("world_vpd.py", "arm=twinn", r"arm='twinn' is not one of"),
    ("world_vpd.py", "seeed=1", "Did you mean 'seed'"),
    ("world_vpd.py", "seed=one", "seed='one' is not of type int"),
    ("data_gen/world.py", "variant=bad", "variant='bad' is not one of"),
  ],
)
def test_config_arguments_are_checked(path, arg, message):
  with pytest.raises(ValueError, match=message):
    configs.load(path, arg)


def test_an_unknown_key_of_the_input_is_named_whole():
  config = configs.load("world_vpd.py")
  config.input.rationale_sufix = "Why?"
  message = (
    r"config\.input\.rationale_sufix is no option\. Did you mean"
    r" 'config\.input\.rationale_suffix'\?"
  )
  with pytest.raises(ValueError, match=message):
    build.build(config)
