"""Front door: every config builds, and takes one step at tiny size."""

import math
import pathlib

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from data_gen import stage
from tests import configs
from vpd_jax import build, initial

EXPERIMENTS = (
  ("debug.py", ""),
  ("world_vpd.py", ""),
  ("world_vpd.py", "arm=twin"),
  ("world_vpd.py", "arm=twin_equal_compute"),
  ("world_vpd.py", "arm=replay"),
  ("world_base.py", "phase=caption"),
  ("world_base.py", "phase=mixture"),
  ("pali3_vpd.py", ""),
  ("t5gemma2_vpd.py", ""),
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


def _shrink(config):
  """The same at the size of a test, and without files that are not here."""
  config.init, config.model.size = "", "debug"
  if config.input.image_px > 48:  # The embedded world's is small as it is.
    config.model.is_scanned = True  # As the sizes are that it stands for.
    config.input.update(image_px=48, batch_size=8, vocab="world")
    config.input.lengths = dict(prompt=8, label=3, rationale=9)
    if config.optim.accumulate:
      config.optim.accumulate = 1


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


def test_all_configs_are_listed():
  root = pathlib.Path(configs.ROOT) / "configs"
  listed = {path for path, _ in EXPERIMENTS}
  assert {p.name for p in root.glob("*.py")} == listed
  listed = {path for path, _ in DATA}
  assert {p.name for p in (root / "data_gen").glob("*.py")} == listed


@pytest.mark.parametrize("path,arg", EXPERIMENTS)
def test_flags_can_say_where_an_experiment_runs(path, arg):
  """A flag sets only what a config names."""
  config = configs.load(path, arg)
  config.distributed.coordinator = "host:8476"
  config.distributed.process_id = 1
  config.profile.start_step, config.log.wandb = 10, "project"
  with pytest.raises(TypeError):
    config.distributed.num_processes = "two"


def test_vpds_mixture_is_that_of_its_paper():
  config = configs.load("pali3_vpd.py", "data=mixture")
  config.data_dir = "elsewhere"
  found = config.input.data.to_dict()
  # Of 310.5 thousand questions, 150 have no rationale.
  assert sum(x["weight"] for x in found.values()) == pytest.approx(310.5)
  pair = found["vqav2"]["weight"] + found["ocr_vqa"]["weight"]
  assert pair == pytest.approx(150)
  for name, entry in found.items():
    assert entry["dir"] == f"elsewhere/{name}" and entry["split"] == "train"
  assert config.evaluators.validation.dir == "elsewhere/aokvqa"


# Of docs and docstrings: each can be given as a flag, for every experiment.
FLAGS = {
  "input.cache": True,
  "input.drop_long": True,
  "input.image_kernel": "bicubic",
  "input.num_threads": 2,
  "input.num_workers": 3,
  "input.questions_per_image": 2,
  "input.synthetic": True,
  "loss.chunk": 128,
  "loss.dtype": "bfloat16",
  "loss.prompts_apart": True,
  "loss.rationale_weight": 0.5,
  "loss.z_loss": 1e-4,
  "model.dropout": 0.1,
  "model.lora": "vpd_generalist",
  "model.remat": "dots",
  "model.vit_remat": "full",
  "optim.accumulate": 2,
  "optim.clip_norm": 0.5,
  "optim.ema_decay": 0.99,
  "optim.freeze": ("vit/",),
  "optim.frozen_dtype": "bfloat16",
  "optim.momentum_dtype": "bfloat16",
  "optim.name": "lion",
  "optim.schedule": "rsqrt",
  "optim.train": ("encoder/", "decoder/"),
  "optim.weight_decay": 0.1,
}
# The like, but not of the optimizer there.
OTHER_FLAGS = {
  "optim.clip_update_rms": 1.0,
  "optim.decay_rate": 0.7,
  "optim.min_factored": 8,
  "optim.moments_dtype": "bfloat16",
  "optim.momentum": 0.8,
  "optim.scale_by_params": True,
}


@pytest.mark.parametrize("path,arg", EXPERIMENTS)
def test_each_documented_option_is_a_flag(path, arg):
  argv = [f"--config={configs.ROOT}/configs/{path}:{arg}"]
  given = FLAGS | OTHER_FLAGS
  argv += [f"--config.{name}={value}" for name, value in given.items()]
  found = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=found, sys_argv=argv)
  found(["train", *argv])
  for name, value in given.items():
    section, key = name.split(".")
    assert found["config"].value[section][key] == value, name


def test_options_of_flags_are_options_of_what_they_are_passed_to():
  config = configs.load("debug.py")
  config.update_from_flattened_dict(
    FLAGS | {"input.cache": False, "input.batch_size": 32}
  )
  parts = build.build(config)
  assert parts.optimizer.accumulate == 2 and parts.options["dropout"] == 0.1
  batch = next(build.train_batches(config, parts))
  assert batch["image"].shape[0] == 16


# That of equal compute is compiled below, at its own size; the one with replay
# differs from the first in data alone.
OTHERS = ("arm=twin_equal_compute", "arm=replay")
STEPPED = [e for e in EXPERIMENTS if e[1] not in OTHERS]


@pytest.mark.parametrize("path,arg", STEPPED)
def test_experiment_takes_a_step(path, arg):
  config = configs.load(path, arg)
  _shrink(config)
  parts = build.build(config)
  state = initial.init_state(config, parts)
  batch = _batch(config, parts, rows=8)
  state, metrics = build.compile_step(config, parts, state, batch)(state, batch)
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
    compiled = build.compile_step(config, parts, parts.state, batch)
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


def test_a_batch_that_does_not_divide_is_told_what_would():
  config = configs.load("debug.py")
  config.input.batch_size, config.optim.accumulate = 24, 2
  config.input.questions_per_image = 2
  message = (
    r"batch_size=24 does not divide by optim.accumulate \(2\) x the mesh's"
    r" batch axes \(8\) x input.questions_per_image \(2\); try 32\."
  )
  with pytest.raises(ValueError, match=message):
    build.build(config)


def test_an_option_of_another_optimizer_is_named():
  config = configs.load("debug.py")
  config.optim.update(name="lion", eps=1e-3)
  with pytest.raises(ValueError, match=r"optim.eps is no option of .*'lion'"):
    build.build(config)
  config.optim = dict(lr=1.0, b3=0.5)
  with pytest.raises(ValueError, match=r"config.optim.b3 is no option"):
    build.build(config)


def test_training_without_data_says_what_would_do():
  config = configs.load("debug.py")
  config.input.data = {}
  parts = build.build(config)
  with pytest.raises(ValueError, match=r"or set input.synthetic=True"):
    build.train_batches(config, parts)
  config.input.synthetic = True
  batch = next(build.train_batches(config, parts))
  assert batch["image"].shape == (8, 48, 48, 3)
