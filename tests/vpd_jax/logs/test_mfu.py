"""Counts of FLOPs: by hand, by the table of PaLIs, and by XLA."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from vpd_jax import lookup, optim, trees
from vpd_jax.logs import mfu
from vpd_jax.models import attention, flops, lora
from vpd_jax.models.pali import flops as pali
from vpd_jax.models.pali import sizes

FAMILIES = ("pali", "t5gemma2", "paligemma", "blip2")
VOCAB = 40
LORA = {"image": 1, "encode": 2, "decode": 2, "head": 2}
LANGUAGE = {"image": 1, "encode": 3, "decode": 3, "head": 3}
ALL = dict.fromkeys(LORA, 3)


def _step(options, image_px, times, **remat):
  lengths = {"label": 16, "rationale": 256}
  passes = {
    name: pali.forward(options, image_px=image_px, prompt=64, target=length)
    for name, length in lengths.items()
  }
  return mfu.of_step(passes, times, images=1, examples=1, **remat)


@pytest.mark.parametrize(
  "size,image_px,vit,lora,language,everything",
  # TFLOP an example, computed apart from this code: of the image's forward
  # pass, and of a step with these parts trained.
  [
    ("pali3_5b", 224, 0.97, 6.1, 8.7, 10.6),
    ("pali3_5b", 448, 4.1, 19, 26, 34),
    ("pali3_5b", 812, 16.0, 64, 89, 121),
    ("pali3_5b", 1064, 31.9, 124, 171, 235),
    ("pali_17b", 588, 14.7, 107, 153, 182),
    ("palix_55b", 756, 137, 545, 749, 1023),
  ],
)
def test_the_palis_take_what_the_table_says(
  size, image_px, vit, lora, language, everything, monkeypatch
):
  # The table's label has keys and values of its own.
  monkeypatch.setattr(attention, "is_turned", lambda *_: False)
  options = sizes.get(size) | {"vocab_size": 32100}
  found = [
    _step(options, image_px, times).model / 1e12
    for times in (LORA, LANGUAGE, ALL)
  ]
  np.testing.assert_allclose(found, [lora, language, everything], rtol=0.05)
  image = pali.forward(options, image_px=image_px, prompt=64, target=16)
  np.testing.assert_allclose(image["image"].total / 1e12, vit, rtol=0.05)


def test_a_forward_pass_by_hand():
  options = sizes.get("debug") | {"vocab_size": VOCAB}
  found = pali.forward(options, prompt=2, target=3)
  # 48 pixels in patches of 16: 9 patches, so 11 tokens are encoded. Widths
  # are 16, MLPs 32, one block everywhere.
  tower = 2 * 9 * (768 * 16 + 4 * 256 + 2 * 512 + 256)
  assert found["image"] == flops.Count(tower, 4 * 9 * 9 * 16)
  encode = 2 * 11 * (4 * 256 + 3 * 512)
  assert found["encode"] == flops.Count(encode, 4 * 11 * 11 * 16)
  assert found["head"] == flops.Count(2 * 3 * 16 * 40)
  # Heads are 8 wide: 3 tokens look across without keys and values, 8 with them.
  for tokens, matrices, attended in (
    (3, 2 * 3 * 512, 4 * 3 * 11 * 2 * 16),
    (8, 2 * 11 * 512, 4 * 8 * 11 * 16),
  ):
    found = pali.forward(options, prompt=2, target=tokens)
    own = 2 * tokens * (6 * 256 + 3 * 512)
    causal = 2 * tokens * tokens * 16
    expected = flops.Count(own + matrices, causal + attended)
    assert found["decode"] == expected


def test_images_are_encoded_once_for_all_their_questions():
  options = sizes.get("debug") | {"vocab_size": VOCAB}
  forward = pali.forward(options, prompt=2, target=3)
  passes = {"label": forward, "rationale": forward}
  found = mfu.of_step(passes, LORA, images=2, examples=8)
  text = sum(forward[part].total for part in ("encode", "decode", "head"))
  expected = 2 * forward["image"].total + 2 * 8 * 2 * text
  assert found.model == found.hardware == pytest.approx(expected)
  alone = mfu.of_step({"label": forward}, LORA, images=8, examples=8)
  expected = 8 * forward["image"].total + 8 * 2 * text
  assert alone.model == pytest.approx(expected)


def test_recomputing_adds_to_hardware_flops_where_gradients_pass():
  options = sizes.get("debug") | {"vocab_size": VOCAB}
  forward = pali.forward(options, prompt=2, target=3)
  step = {"images": 1, "examples": 1}
  plain = mfu.of_step({"label": forward}, LORA, **step)
  full = mfu.of_step(
    {"label": forward}, LORA, remat="full", vit_remat="full", **step
  )
  dots = mfu.of_step({"label": forward}, LORA, remat="dots", **step)
  assert plain.model == full.model == dots.model == plain.hardware
  blocks = [forward[part] for part in ("encode", "decode")]
  assert full.hardware - full.model == pytest.approx(
    sum(count.total for count in blocks)
  )
  assert dots.hardware - dots.model == pytest.approx(
    sum(count.attention for count in blocks)
  )


def _abstract(family, **changes):
  options = lookup.module("vpd_jax.models", family, "sizes").get("debug")
  options |= {"vocab_size": VOCAB} | changes
  make = lookup.module("vpd_jax.models", family, "model").Model
  model = nnx.eval_shape(lambda: make(**options))
  return options, model


def _times(family, train, **changes):
  options, model = _abstract(family, **changes)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  trained = optim.make(total_steps=1, lr=1.0, train=train).partition(params)[0]
  patterns = lookup.module("vpd_jax.models", family, "flops").parts(options)
  return mfu.multiples(
    mfu.matrix_sizes(params), trees.flatten_with_names(trained), patterns
  )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_of_a_part(family):
  options, model = _abstract(family)
  names = trees.flatten_with_names(
    nnx.to_pure_dict(nnx.state(model, nnx.Param))
  )
  patterns = lookup.module("vpd_jax.models", family, "flops").parts(options)
  assert set(patterns) == set(flops.PARTS)
  of_any = [p for patterns in patterns.values() for p in patterns]
  for name in names:
    assert any(re.match(p, name) for p in of_any), name


@pytest.mark.parametrize(
  "train,expected",
  [
    (("",), (3, 3, 3, 3)),
    (("head/",), (1, 1, 1, 3)),
    (("decoder/", "head/"), (1, 1, 3, 3)),
    (("encoder/",), (1, 3, 2, 2)),
    (("encoder/bias",), (1, 2, 2, 2)),
    (("embedding/",), (1, 2, 2, 2)),
    (("projection/bias",), (2, 2, 2, 2)),
  ],
)
def test_gradients_pass_through_what_lies_above_what_trains(train, expected):
  found = _times("pali", train)
  parts = ("image", "encode", "decode", "head")
  rounded = [round(found[part], 1) for part in parts]
  np.testing.assert_allclose(rounded, expected, atol=0.1)


def test_a_tied_head_trains_with_the_embedding():
  assert _times("pali", ("embedding/",), is_head_tied=True)["head"] == 3
  assert _times("t5gemma2", ("vit/",))["head"] == 2


def test_updates_let_gradients_pass_and_train_no_matrix():
  options = sizes.get("debug") | {"vocab_size": VOCAB}
  make = lookup.module("vpd_jax.models", "pali", "model").Model
  preset = lora.options("vpd_generalist")
  model = nnx.eval_shape(lambda: lora.add(make(**options), **preset))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  train = (lora.UPDATES,)
  trained = optim.make(total_steps=1, lr=1.0, train=train).partition(params)[0]
  found = mfu.multiples(
    mfu.matrix_sizes(params),
    trees.flatten_with_names(trained),
    pali.parts(options),
  )
  assert {part: found[part] for part in LORA} == LORA


# Wide enough that what is not a product with weights is little, and few
# tokens, so that causal attention's other half is too.
WIDE = {
  "pali": dict(
    stem=((16, 96),), vit_mlp_width=384, width=96, mlp_width=256, head_width=48
  ),
  "t5gemma2": dict(
    stem=((12, 96),), vit_mlp_width=384, width=96, mlp_width=256, head_width=24
  ),
  "paligemma": dict(
    stem=((16, 96),), vit_mlp_width=384, width=96, mlp_width=256, head_width=48
  ),
  "blip2": dict(
    vit_width=96,
    vit_mlp_width=384,
    qformer_width=96,
    qformer_mlp_width=384,
    width=96,
    mlp_width=256,
    head_width=48,
  ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_xla_counts_as_many_in_a_forward_pass(family):
  options, abstract = _abstract(family, **WIDE[family])
  graphdef, params = nnx.split(abstract, nnx.Param)
  rows, prompt, target, px = 4, 6, 5, options["image_size"]

  def forward(params, image, prompt, target):
    return nnx.merge(graphdef, params)(image, prompt, target)

  shape = jax.ShapeDtypeStruct
  compiled = (
    jax.jit(forward)
    .lower(
      params,
      shape((rows, px, px, 3), np.uint8),
      shape((rows, prompt), np.int32),
      shape((rows, target), np.int32),
    )
    .compile()
  )
  count = lookup.module("vpd_jax.models", family, "flops").forward
  parts = count(options, prompt=prompt, target=target)
  ours = rows * sum(part.total for part in parts.values())
  theirs = compiled.cost_analysis()["flops"]
  np.testing.assert_allclose(ours, theirs, rtol=0.1)


@pytest.mark.parametrize(
  "kind,tflops",
  [
    ("NVIDIA H200", 989),
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756),
    ("TPU v5 lite", 197),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("TPU7x", 1153.5),  # Half a chip.
  ],
)
def test_peaks_are_per_jax_device(kind, tflops):
  assert mfu.peak(kind) == tflops * 1e12


def test_no_peak_is_made_up():
  assert mfu.peak("cpu") is None
