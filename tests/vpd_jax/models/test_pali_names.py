"""PaLI's named sizes, its tables of names, and foreign config.json files."""

import functools
import math
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from vpd_jax import step, trees
from vpd_jax.checkpoint import store
from vpd_jax.models.pali import hf_config, model, params, sizes

WEIGHTS = pathlib.Path(__file__).parents[3] / "weights/world_base.npz"
# What has a counterpart: not the world's student, nor ViT-22B's blocks.
OPEN = [
  name
  for name, size in sizes.SIZES.items()
  if len(size["stem"]) == 1
  and not size.get("has_parallel_vit", False)
  and not size.get("is_attention_scaled", False)
]


@functools.cache
def shapes(size, vocab_size=32100):
  made = nnx.eval_shape(
    lambda: model.Model(vocab_size=vocab_size, **sizes.get(size))
  )
  return trees.flatten_with_names(nnx.to_pure_dict(nnx.state(made, nnx.Param)))


@pytest.mark.parametrize("size", ["b16_t5_1_0_small", "b16_flan_t5_base"])
def test_tables_name_every_array_once(size):
  options = sizes.get(size)
  tables = params.table(options, "text"), params.table(options, "image")
  ours = [r.name for table in tables for r in table.renames]
  expected = {*shapes(size)} - {*params.FRESH}
  assert sorted(ours) == sorted(expected)
  for table in tables:
    foreign = [name for r in table.renames for name in r.names()]
    assert len({*foreign}) == len(foreign)


@pytest.mark.parametrize(
  "size,tokens,vit,text",
  [
    # Millions, of the tower without its pooling head, and of the T5; from the
    # papers and the checkpoints. T5 XL has 2.85 billion with its own head.
    ("b16_t5_1_0_small", 32100, 86, 60.5),
    ("b16_flan_t5_base", 32100, 86, 248),
    ("so400m_flan_t5_xl", 32100, 413, 2850),
    ("pali3_5b", 32100, 1840, 2850),
  ],
)
def test_sizes_are_the_published_ones(size, tokens, vit, text):
  named = shapes(size, tokens)
  counts = {"vit": 0, "text": 0}
  for name, array in named.items():
    part = name.split("/")[0]
    if part != "projection":
      counts["vit" if part == "vit" else "text"] += math.prod(array.shape)
  assert counts["vit"] / 1e6 == pytest.approx(vit, rel=0.01)
  assert counts["text"] / 1e6 == pytest.approx(text, rel=0.01)


def test_vocabulary_is_padded():
  named = shapes("b16_flan_t5_base")
  assert named["embedding/table"].shape == (32128, 768)
  assert named["head/kernel"].shape == (768, 32128)
  assert "head/kernel" not in shapes("b16_t5_1_0_small")


def test_every_size_has_a_counterpart_and_comes_back():
  assert len(OPEN) > 5
  for size in OPEN:
    options = sizes.get(size)
    config = hf_config.config(options, "text", rows=32128)
    text = hf_config.options(config)
    image = hf_config.options(hf_config.config(options, "image", rows=32128))
    known = options | text | image
    del known["vocab_size"]
    assert known == options | {"is_head_tied": text["is_head_tied"]}


def test_the_worlds_student_has_no_counterpart():
  options = sizes.get("world")
  with pytest.raises(ValueError, match="is_attention_scaled=True"):
    hf_config.config(options, "text", rows=40)
  for table in (params.table, params.big_vision):
    with pytest.raises(ValueError, match="stem of 3 steps"):
      table(options, "image")
    with pytest.raises(ValueError, match="has_parallel_vit=True"):
      table(sizes.get("b16_flan_t5_base") | {"has_parallel_vit": True}, "image")


def test_config_of_a_first_t5_has_its_defaults():
  # As t5-small's file: no feed_forward_proj, no tie_word_embeddings.
  options = hf_config.options(
    dict(model_type="t5", vocab_size=32128, d_model=512, d_kv=64, d_ff=2048)
    | dict(num_heads=8, num_layers=6)
  )
  wanted = sizes.get("b16_t5_1_0_small") | dict(vocab_size=32128)
  assert options == {key: wanted[key] for key in options}


def test_config_of_a_siglip_has_its_defaults():
  options = hf_config.options(
    dict(
      model_type="siglip", vision_config=dict(model_type="siglip_vision_model")
    )
  )
  assert options == sizes.SIGLIP_B16
  options = hf_config.options(
    dict(model_type="siglip_vision_model", image_size=384, patch_size=14)
  )
  assert options["image_size"] == 378  # 27 patches fit.


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(model_type="umt5"), "model_type='umt5'.*'mt5'"),
    (dict(d_ff=None), r"lacks \['d_ff'\]"),
    (dict(feed_forward_proj="gated-tanh"), "'gated-tanh'; known are"),
    (dict(layer_norm_epsilon=1e-5), "layer_norm_epsilon=1e-05.* 1e-06 only"),
    (dict(relative_attention_num_buckets=64), "num_buckets=64"),
    (dict(pad_token_id=3), "pad_token_id=3"),
  ],
)
def test_text_config_that_we_cannot_compute_is_refused(change, message):
  config = hf_config.config(sizes.get("b16_flan_t5_base"), "text", rows=100)
  config = {k: v for k, v in (config | change).items() if v is not None}
  with pytest.raises(ValueError, match=message):
    hf_config.options(config)


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(model_type="clip"), "model_type='clip'"),
    (dict(hidden_act="gelu"), "hidden_act='gelu'"),
    (dict(image_size=[224, 448]), r"image_size=\[224, 448\]"),
  ],
)
def test_image_config_that_we_cannot_compute_is_refused(change, message):
  config = (
    hf_config.config(sizes.get("b16_flan_t5_base"), "image", rows=100) | change
  )
  with pytest.raises(ValueError, match=message):
    hf_config.options(config)


def test_unknown_mlp_lists_those_that_exist():
  with pytest.raises(ValueError, match=r"mlp='swish'.*gated_silu"):
    model.Model(vocab_size=8, mlp="swish", **sizes.get("debug"))


def test_the_shipped_weights_give_the_logits_they_always_gave():
  """Names, shapes and numbers of the embedded default are an interface."""
  with np.load(WEIGHTS) as file:
    rows = file["embedding/table"].shape[0]
  graphdef, fresh = nnx.split(
    model.Model(vocab_size=rows, **sizes.get("world")), nnx.Param
  )
  student = step.merge(
    graphdef, store.load_params(WEIGHTS, nnx.to_pure_dict(fresh))
  )
  image = np.arange(48 * 48 * 3).reshape(1, 48, 48, 3) % 251
  prompt = np.arange(3, 13)[None].astype(np.int32)
  target = np.arange(5, 9)[None].astype(np.int32)
  logits = jax.jit(student)(image.astype(np.uint8), prompt, target)
  assert logits.shape == (1, 4, rows)
  np.testing.assert_allclose(logits[0, :, :3], GOLDEN, rtol=1e-4, atol=1e-3)


# Written before the blocks of a stack became one array, and equal to the bit.
GOLDEN = [
  [-8.393978, -0.754108, -7.912353],
  [-11.274526, 5.297310, -9.921834],
  [-9.897811, 6.928560, -9.244142],
  [-9.099336, 4.778228, -8.467208],
]
