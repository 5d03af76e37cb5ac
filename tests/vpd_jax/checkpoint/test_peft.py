"""Adapters as peft has them: out and in again, and what is refused."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from vpd_jax.checkpoint import convert, peft, safetensors_file
from vpd_jax.models import renames

# Two blocks of 5 -> 3, which are the model's first and third; a head of 3 -> 4.
BASE = renames.Table(
  (
    renames.Rename(
      "blocks/up/kernel",
      "layers.{}.up.weight",
      renames.Layout.TRANSPOSED,
      layers=(0, 2),
    ),
    renames.Rename("blocks/up/bias", "layers.{}.up.bias", layers=(0, 2)),
    renames.Rename("head/kernel", "head.weight", renames.Layout.TRANSPOSED),
    renames.Rename("table", "table.weight"),
    *(
      renames.Rename(
        f"attention/{name}/kernel",
        "qk.weight",
        renames.Layout.TRANSPOSED,
        part=(index, 2),
      )
      for index, name in enumerate(("query", "key"))
    ),
  ),
  prefix="model.",
  spellings=((r"^decoder\.", "layers."),),
)
SHAPES = {
  "blocks/up/kernel": np.zeros((2, 5, 3)),
  "blocks/up/bias": np.zeros((2, 3)),
  "head/kernel": np.zeros((3, 4)),
  "table": np.zeros((9, 3)),
  "attention/query/kernel": np.zeros((3, 3)),
  "attention/key/kernel": np.zeros((3, 3)),
}
OPTIONS: dict[str, Any] = dict(alpha=6.0, dropout=0.25)


def _updates(*paths, rank=2):
  rng = np.random.default_rng(0)
  out = {}
  for path in paths:
    *stack, width_in, width_out = SHAPES[f"{path}/kernel"].shape
    shapes = {"a": (*stack, width_in, rank), "b": (*stack, rank, width_out)}
    for end, shape in shapes.items():
      drawn = rng.standard_normal(shape).astype(np.float32)
      out[f"{path}/lora/{end}"] = drawn
  return out


def _arrays(updates):
  return {n: convert.in_memory(x, n) for n, x in updates.items()}


@pytest.fixture
def folder(tmp_path):
  updates = _updates("blocks/up", "head")
  peft.write(tmp_path / "adapter", _arrays(updates), BASE, **OPTIONS)
  return tmp_path / "adapter"


def test_names_and_layout_are_pefts(folder):
  updates = _updates("blocks/up", "head")
  found = safetensors_file.scan(folder / peft.WEIGHTS)
  modules = ["model.layers.0.up", "model.layers.2.up", "model.head"]
  assert set(found) == {
    f"base_model.model.{m}.lora_{end}.weight" for m in modules for end in "AB"
  }
  np.testing.assert_array_equal(
    found["base_model.model.model.layers.2.up.lora_A.weight"].whole(),
    updates["blocks/up/lora/a"][1].T,
  )
  np.testing.assert_array_equal(
    found["base_model.model.model.head.lora_B.weight"].whole(),
    updates["head/lora/b"].T,
  )
  config = json.loads((folder / peft.CONFIG).read_text())
  assert config["target_modules"] == sorted(modules)
  assert (config["r"], config["lora_alpha"]) == (2, 6.0)


def test_what_is_written_is_read(folder):
  adapter = peft.read(folder, BASE, SHAPES)
  assert adapter.options["rank"] == 2
  assert adapter.options["alpha"] == 6.0
  assert adapter.options["dropout"] == 0.25
  assert adapter.options["patterns"] == ("blocks/up$", "head$")
  updates = _updates("blocks/up", "head")
  assert set(adapter.arrays) == set(updates)
  for name, array in adapter.arrays.items():
    np.testing.assert_array_equal(array.whole(), updates[name])


def test_the_prefix_of_modules_may_be_another(tmp_path):
  updates = _arrays(_updates("head"))
  peft.write(tmp_path / "adapter", updates, BASE, alpha=1.0, prefix="")
  found = safetensors_file.scan(tmp_path / "adapter" / peft.WEIGHTS)
  assert "base_model.model.head.lora_A.weight" in found
  assert len(peft.read(tmp_path / "adapter", BASE, SHAPES).arrays) == 2


def _rewrite(folder, rename=lambda n: n, drop=()):
  found = safetensors_file.scan(folder / peft.WEIGHTS)
  kept = {
    rename(n): convert.in_memory(x.whole(), n)
    for n, x in found.items()
    if n not in drop
  }
  safetensors_file.write(folder / peft.WEIGHTS, kept)


@pytest.mark.parametrize(
  "old,new", [(".model.model.", ".model."), ("model.layers.", "model.decoder.")]
)
def test_other_spellings_of_the_base_are_read(folder, old, new):
  _rewrite(folder, lambda n: n.replace(old, new))
  assert len(peft.read(folder, BASE, SHAPES).arrays) == 4


def test_a_layer_without_an_update_is_named(folder):
  gone = "base_model.model.model.layers.2.up.lora_B.weight"
  _rewrite(folder, drop=(gone,))
  with pytest.raises(ValueError, match=r"missing layers\.2\.up\.lora_B"):
    peft.read(folder, BASE, SHAPES)


def test_an_update_of_another_model_is_named(folder):
  _rewrite(folder, lambda n: n.replace("head", "tail"))
  with pytest.raises(ValueError, match=r"unused tail\.lora_A\.weight"):
    peft.read(folder, BASE, SHAPES)


@pytest.mark.parametrize(
  "key,value",
  [
    ("use_dora", True),
    ("use_rslora", True),
    ("bias", "all"),
    ("rank_pattern", {"head": 4}),
    ("modules_to_save", ["head"]),
    ("peft_type", "IA3"),
    ("r", None),
    ("r", True),
    ("r", 2.0),
    ("lora_alpha", "6"),
    ("lora_dropout", 1.0),
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", "loftq"),
    ("alora_invocation_tokens", [5, 6]),
    ("kasa_config", {"beta": 1e-4}),
    ("velora_config", {"num_groups": 64}),
    ("monteclora_config", {"x": 1}),
    ("arrow_config", {"top_k": 3}),
    ("corda_config", {"verbose": False}),
    ("use_qalora", True),
    ("use_bdlora", {"nblocks": 2}),
    ("lora_bias", True),
    ("layer_replication", [[0, 1]]),
    ("megatron_config", {"x": 1}),
    ("ensure_weight_tying", True),
    ("of_next_year", "on"),
  ],
)
def test_what_is_not_computed_is_refused(folder, key, value):
  config = json.loads((folder / peft.CONFIG).read_text())
  (folder / peft.CONFIG).write_text(json.dumps(config | {key: value}))
  with pytest.raises(ValueError, match=rf"not computed here:\n  {key} is"):
    peft.read(folder, BASE, SHAPES)


def test_what_peft_writes_of_plain_updates_is_read(folder):
  """All fields of peft 0.21 with their defaults, and what says where."""
  config = json.loads((folder / peft.CONFIG).read_text())
  config |= dict.fromkeys(
    (
      *("auto_mapping", "revision", "exclude_modules", "modules_to_save"),
      *("layers_pattern", "megatron_config", "trainable_token_indices"),
      *("eva_config", "corda_config", "lora_ga_config", "velora_config"),
      *("alora_invocation_tokens", "monteclora_config", "layer_replication"),
      *("target_parameters", "use_bdlora", "arrow_config", "kasa_config"),
    )
  )
  config |= {
    "peft_version": "0.21.2",
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "use_dora": False,
    "use_qalora": False,
    "qalora_group_size": 16,
    "lora_bias": False,
    "ensure_weight_tying": False,
    "layers_to_transform": [0, 2],
    "task_type": "SEQ_2_SEQ_LM",
  }
  for value in (True, False, None, "gaussian"):
    config["init_lora_weights"] = value
    (folder / peft.CONFIG).write_text(json.dumps(config))
    assert len(peft.read(folder, BASE, SHAPES).arrays) == 4


def test_the_prefix_is_that_of_transformers_5(tmp_path):
  base = dataclasses.replace(BASE, module_prefix="")
  updates = _arrays(_updates("head"))
  peft.write(tmp_path / "5", updates, base, alpha=1.0)
  found = safetensors_file.scan(tmp_path / "5" / peft.WEIGHTS)
  assert "base_model.model.head.lora_A.weight" in found
  peft.write(tmp_path / "4", updates, base, alpha=1.0, prefix="model.")
  for folder in ("4", "5"):
    assert len(peft.read(tmp_path / folder, base, SHAPES).arrays) == 2
    assert peft.fits(tmp_path / folder, base)
  other = renames.Table(BASE.renames[:2])
  assert not peft.fits(tmp_path / "5", other)


@pytest.mark.parametrize(
  "updates,message",
  [
    (_updates("attention/query"), "qk.weight there is 2 projections in one"),
    ({"x/lora/a": np.zeros((3, 2))}, "that is adapted has no x"),
    ({"head/kernel": np.zeros((3, 4))}, "head/kernel is no low-rank update"),
    (
      _updates("blocks/up") | _updates("head", rank=3),
      r"ranks \[2, 3\]: an adapter has one",
    ),
  ],
)
def test_what_peft_cannot_hold_is_refused(tmp_path, updates, message):
  with pytest.raises(ValueError, match=message):
    peft.write(tmp_path / "adapter", _arrays(updates), BASE, **OPTIONS)
  assert not any(tmp_path.iterdir())


def test_a_kernel_that_is_no_linear_layer_there_is_refused(tmp_path):
  patches = dataclasses.replace(BASE.renames[2], layout=renames.Layout.PATCHES)
  base = dataclasses.replace(BASE, renames=(patches,))
  with pytest.raises(ValueError, match=r"is no torch[.]nn"):
    updates = _arrays(_updates("head"))
    peft.write(tmp_path / "adapter", updates, base, **OPTIONS)


def test_folders_that_cannot_be_used_are_named(folder, tmp_path):
  with pytest.raises(FileExistsError, match="adapter is not empty"):
    peft.write(folder, _arrays(_updates("head")), BASE, **OPTIONS)
  with pytest.raises(FileNotFoundError, match=r"no .*adapter_config"):
    peft.read(tmp_path / "none", BASE, SHAPES)
