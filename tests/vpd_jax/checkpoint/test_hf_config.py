"""Fields of config.json files that must be named, whichever family reads."""

import pytest

from vpd_jax.checkpoint import families
from vpd_jax.models.blip2 import sizes as blip2_sizes
from vpd_jax.models.pali import sizes as pali_sizes
from vpd_jax.models.paligemma import sizes as paligemma_sizes
from vpd_jax.models.t5gemma2 import sizes as t5gemma2_sizes

SIZES = {
  ("pali", "text"): pali_sizes.get("so400m_flan_t5_xl"),
  ("pali", "image"): pali_sizes.get("so400m_flan_t5_xl"),
  ("paligemma", "model"): paligemma_sizes.get("debug"),
  ("t5gemma2", "model"): t5gemma2_sizes.get("debug"),
  ("blip2", "model"): blip2_sizes.get("debug"),
}
VISION = {
  "paligemma": "vision_config.",
  "t5gemma2": "encoder.vision_config.",
  "blip2": "vision_config.",
  "pali": "",
}


def config_of(family, part):
  options = SIZES[family, part] | {"vocab_size": 300}
  module = families.module(family, "hf_config")
  return module.config(options, part, rows=400)


def put(config, path, value):
  """A copy with one field, named as a.b.c, of another value."""
  first, _, rest = path.partition(".")
  value = put(config.get(first, {}), rest, value) if rest else value
  return config | {first: value}


def options(family, config):
  return families.module(family, "hf_config").options(config)


@pytest.mark.parametrize("value", [32.0, "2", -32, 0, True, None, [2]])
@pytest.mark.parametrize(
  "name", ["d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size"]
)
def test_numbers_of_a_t5(name, value):
  config = config_of("pali", "text")
  assert options("pali", config)["width"] == 2048
  with pytest.raises(ValueError, match=rf"{name}=.*a whole number above 0"):
    options("pali", config | {name: value})


def test_depth_of_a_t5s_decoder():
  config = config_of("pali", "text")
  found = options("pali", config | {"num_decoder_layers": None})
  assert found["decoder_depth"] == found["encoder_depth"]
  for value in (0, "6"):
    with pytest.raises(ValueError, match=f"num_decoder_layers={value!r}; exp"):
      options("pali", config | {"num_decoder_layers": value})


@pytest.mark.parametrize(
  "family,part", [key for key in SIZES if key != ("pali", "text")]
)
@pytest.mark.parametrize(
  "change,message",
  [
    ({"patch_size": 0}, "patch_size=0; expected a whole number above 0"),
    ({"hidden_size": 32.0}, "hidden_size=32.0; expected a whole number"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True; expected"),
  ],
)
def test_numbers_of_an_image_tower(family, part, change, message):
  config = config_of(family, part)
  options(family, config)
  for name, value in change.items():
    config = put(config, VISION[family] + name, value)
  with pytest.raises(ValueError, match=message):
    options(family, config)


def test_numbers_of_an_image_tower_that_do_not_fit_each_other():
  config = config_of("pali", "image")
  with pytest.raises(ValueError, match="image_size=8 and patch_size=14: no pa"):
    options("pali", config | {"image_size": 8})
  with pytest.raises(ValueError, match="divide by num_attention_heads=7"):
    options("pali", config | {"num_attention_heads": 7})


LINEAR = {"rope_type": "linear", "factor": 8.0}


def t5gemma2_with(**fields):
  config = config_of("t5gemma2", "model")
  for name, value in fields.items():
    for stack in ("decoder", "encoder.text_config"):
      config = put(config, f"{stack}.{name}", value)
  return config


def test_rope_scaling_changes_rope_parameters_of_t5gemma2():
  """As in transformers 5.23, which was run: it updates them by the older."""
  assert options("t5gemma2", t5gemma2_with())["rope_stretch_global"] == 1.0
  config = t5gemma2_with(rope_scaling=LINEAR)
  assert config["decoder"]["rope_parameters"]["full_attention"]
  found = options("t5gemma2", config)
  assert found["rope_stretch_global"] == 8.0
  assert found["rope_base_global"] == 1e6


@pytest.mark.parametrize("factor", [None, 0, "8", True, -1.0])
def test_a_linear_rope_without_a_factor(factor):
  scaling = {"rope_type": "linear", "factor": factor}
  if factor is None:
    del scaling["factor"]
  with pytest.raises(ValueError, match=rf"'linear' with factor={factor!r}"):
    options("t5gemma2", t5gemma2_with(rope_scaling=scaling))


def test_two_kinds_of_rope_at_once():
  scaling = {"type": "linear", "factor": 8.0}
  message = "rope_type='default' and type='linear' for .*leave one"
  with pytest.raises(ValueError, match=message):
    options("t5gemma2", t5gemma2_with(rope_scaling=scaling))


def test_rope_scaling_of_a_gemma_overrules_rope_parameters():
  config = config_of("paligemma", "model")
  assert config["text_config"]["rope_parameters"]["rope_type"] == "default"
  options("paligemma", config)
  for scaling in (LINEAR, {"type": "linear", "factor": 8.0}):
    with pytest.raises(ValueError, match=r"rotary embeddings .*'linear'"):
      options("paligemma", put(config, "text_config.rope_scaling", scaling))
