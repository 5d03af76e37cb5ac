"""A trained model leaves: as a folder of ours, as transformers', as peft's."""

import json
import re

import jax
import numpy as np
import pytest

from tests import configs, entries
from vpd_jax import build, initial, run_export, run_record, trees
from vpd_jax.checkpoint import (
  convert,
  families,
  hf,
  model_folder,
  safetensors_file,
  store,
)
from vpd_jax.input import tokens
from vpd_jax.models import lora
from vpd_jax.models.pali import hf_config, params

OPTIONS = dict(
  vocab_size=tokens.load("world").vocab_size,
  image_size=6,
  stem=((2, 8),),
  vit_depth=2,
  vit_heads=2,
  vit_mlp_width=12,
  width=8,
  heads=2,
  head_width=4,
  mlp_width=8,
  encoder_depth=2,
  decoder_depth=1,
)
PARTS = ("text", "image")
PATTERNS = ("(encoder|decoder)/blocks/", "vit/blocks/attention/(query|value)$")
CONFIG = """
from tests import configs


def get_config():
  c = configs.load("debug.py", "steps=2")
  c.model = dict(name="pali", size={base!r}, lora=dict(
    patterns={patterns!r}, rank=2, alpha=6.0))
  c.init = {base!r}
  c.input.image_px = 6
  c.input.data = dict()
  c.input.synthetic = True
  c.evaluators = dict()
  c.select = ""
  c.optim.update(lr=0.1, warmup_steps=0)
  return c
"""


def write_foreign(folder, options=None):
  """Folders of a T5 and a SigLIP, as transformers keeps them."""
  options = options or OPTIONS
  rng = np.random.default_rng(0)
  named = families.Shapes("pali", options).named
  arrays = {
    name: convert.in_memory(
      0.3 * rng.standard_normal(x.shape).astype(np.float32), name
    )
    for name, x in named.items()
  }
  for part in PARTS:
    hf.write(
      folder / part,
      hf_config.config(options, part, rows=options["vocab_size"]),
      convert.theirs(arrays, params.table(options, part)),
    )


def whole(folder):
  return {n: x.whole() for n, x in model_folder.read(folder).arrays.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A folder with base/, run/, out/, peft/ and hf/, each made by a command."""
  folder = tmp_path_factory.mktemp("export")
  write_foreign(folder)
  entries.call(
    "convert",
    *(f"--{part}=hf:{folder / part}" for part in PARTS),
    f"--to={folder / 'base'}",
  )
  config = folder / "config.py"
  base = str(folder / "base")
  config.write_text(CONFIG.format(base=base, patterns=PATTERNS))
  ours = (f"--config={config}", f"--workdir={folder / 'run'}")
  said = entries.call("train", *ours)
  assert f"starting at step 0 from config.init={base}" in said
  said = entries.call(
    "export", *ours, f"--out={folder / 'out'}", f"--peft={folder / 'peft'}"
  )
  assert f"wrote {folder / 'out'}: step 2, float32" in said
  assert f"wrote {folder / 'peft' / 'image'}: adapter, step 2" in said
  entries.call(
    "convert", f"--from={folder / 'out'}", f"--to=hf:{folder / 'hf'}"
  )
  return folder


@pytest.mark.slow
def test_a_trained_model_leaves_as_transformers_folders(world):
  about = json.loads((world / "out" / "model.json").read_text())
  assert about["step"] == 2 and "lora" not in about["options"]
  assert about["image"] == {"kernel": "bicubic"}
  ours, base = whole(world / "out"), whole(world / "base")
  assert ours.keys() == base.keys()
  moved = {n for n in ours if not np.array_equal(ours[n], base[n])}
  # Updates alone were trained, all of them moved, and none is left.
  pattern = r"(encoder|decoder)/blocks/.*kernel|vit/.*(query|value)/kernel"
  expected = [n for n in ours if re.match(pattern, n)]
  assert sorted(moved) == sorted(expected)
  for part in PARTS:
    found, original = hf.scan(world / "hf" / part), hf.scan(world / part)
    names = {n.removeprefix("vision_model.") for n in found}
    assert names == {n.removeprefix("vision_model.") for n in original}
    table = params.table(OPTIONS, part)
    again = convert.ours(
      found, table, families.Shapes("pali", OPTIONS).named, ""
    )
    for name, array in again.items():
      np.testing.assert_array_equal(array.whole(), ours[name], err_msg=name)


def test_adapters_leave_and_come_back(world, tmp_path):
  names = {p.name for p in (world / "peft").iterdir()}
  assert names == {*PARTS}
  found = safetensors_file.scan(
    world / "peft" / "image" / "adapter_model.safetensors"
  )
  # As transformers 5 calls the modules of a SiglipVisionModel.
  name = "base_model.model.encoder.layers.1.self_attn.q_proj.lora_A.weight"
  assert found[name].shape == (2, 8)
  said = entries.call(
    "convert",
    f"--from={world / 'base'}",
    f"--peft={world / 'peft'}",
    f"--to={tmp_path / 'merged'}",
  )
  assert "projections of text" in said and "projections of image" in said
  ours, base = whole(world / "out"), whole(world / "base")
  for name, array in whole(tmp_path / "merged").items():
    # Both in float32, added up in another order.
    np.testing.assert_allclose(array, ours[name], rtol=1e-5, atol=1e-6)
  # One adapter alone is of whichever part it fits.
  from vpd_jax.checkpoint import exchange

  exchange.merge(
    world / "base", world / "peft" / "image", tmp_path / "2", np.dtype("f4")
  )
  changed = {
    n
    for n, x in whole(tmp_path / "2").items()
    if not np.array_equal(x, base[n])
  }
  assert changed == {
    f"vit/blocks/attention/{name}/kernel" for name in ("query", "value")
  }


def finished(tmp_path, folder, changes=(), optim=()):
  """(config, workdir) of a run that ended: its updates are random numbers."""
  config = configs.load("debug.py")
  config.model = dict(name="pali", size=str(folder))
  config.input.image_px, config.init = 6, str(folder)
  for key, value in dict(changes).items():
    config.model[key] = value
  for key, value in dict(optim).items():
    config.optim[key] = value
  parts = build.build(config)
  state = initial.init_state(config, parts)
  rng = np.random.default_rng(3)
  drawn = {
    name: jax.device_put(
      0.3 * rng.standard_normal(x.shape).astype(x.dtype), x.sharding
    )
    if lora.is_update(name)
    else x
    for name, x in trees.flatten_with_names(state.params).items()
  }
  state = state._replace(params=trees.unflatten_like(state.params, drawn))
  workdir = tmp_path / "run"
  run_record.write(workdir, config)
  store.save_frozen(workdir / "frozen", state.frozen)
  best = store.Store(workdir / "best")
  best.save(7, {"params": state.params}, {}, {})
  best.wait()
  run_record.write_training(workdir, {"best_step": 7})
  return config, str(workdir)


@pytest.fixture(scope="module")
def base(world):
  return world / "base"


def test_without_updates_in_either_format(tmp_path, base):
  config, workdir = finished(tmp_path, base)
  out = str(tmp_path / "out")
  run_export.write(config, workdir, out, dtype="bfloat16")
  for name, array in whole(out).items():
    expected = whole(base)[name].astype(array.dtype)
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array, expected, err_msg=name)
  run_export.write(config, workdir, f"{out}.npz")
  expected = trees.flatten_with_names(build.build(config).state.params)
  store.load_params(f"{out}.npz", expected)
  with pytest.raises(ValueError, match=r"this run has none .config.model.lora"):
    run_export.write(config, workdir, None, str(tmp_path / "peft"))
  with pytest.raises(ValueError, match="give --out, --peft or both"):
    run_export.write(config, workdir, None)
  with pytest.raises(FileExistsError, match="is not empty"):
    run_export.write(config, workdir, out)


def test_what_adapters_do_not_hold_is_said(tmp_path, base):
  updates = dict(patterns=("encoder/blocks/",), rank=2, alpha=2.0)
  optim = dict(train=(lora.UPDATES, "projection/"))
  config, workdir = finished(tmp_path, base, {"lora": updates}, optim)
  report = run_export.write(config, workdir, None, str(tmp_path / "peft"))
  assert [p.name for p in (tmp_path / "peft").iterdir()] == ["text"]
  assert report[1:] == [
    f"trained too, and in no adapter: projection/{name}"
    for name in ("bias", "kernel")
  ]


def test_a_projection_that_is_nobodys_has_no_adapter(tmp_path, base):
  updates = dict(patterns=("projection", "encoder/blocks/"), rank=2, alpha=2.0)
  config, workdir = finished(tmp_path, base, {"lora": updates})
  with pytest.raises(
    ValueError, match=r"no counterpart.*\n  projection/lora/a"
  ):
    run_export.write(config, workdir, None, str(tmp_path / "peft"))
  assert not (tmp_path / "peft").exists()
