"""Placement: sharded = unsharded on eight devices, and what lies where."""

import functools
import re

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from tests import tiny
from vpd_jax import lookup, optim, step, trees
from vpd_jax.losses import fused
from vpd_jax.models import lora
from vpd_jax.sharding import mesh, place

# Side in pixels and prompt: 4 rows of patches, 16 + 8 tokens.
PX, PROMPT = 64, 8


@functools.cache
def _model(family, has_lora):
  """(structure, parameters)."""
  family, _, tower = family.partition(" ")
  sizes = lookup.module("vpd_jax.models", family, "sizes")
  make = lookup.module("vpd_jax.models", family, "model").Model
  options = sizes.get("debug") | {"image_size": PX}
  if tower:
    options["has_naflex_vit"] = True
  made = make(vocab_size=tiny.VOCAB, **options)
  if has_lora:
    lora.add(made, ["(encoder|decoder)/blocks/"], rank=2, alpha=2.0)
  return nnx.split(made, nnx.Param)


def _batch(rows=8):
  batch = tiny.batch(rows)
  rng = np.random.default_rng(1)
  batch["image"] = rng.integers(0, 256, (rows, PX, PX, 3)).astype(np.uint8)
  for name in ("label_prompt", "rationale_prompt"):
    batch[name] = np.pad(batch[name], ((0, 0), (0, PROMPT - 7)))
  return batch


def _in_patches(batch):
  """The batch with patches of 16 x 16 pixels, in grids of their own."""
  grid = np.array([(4, 4), (2, 7), (1, 3), (5, 3)] * 2, np.int32)
  parts = {
    "image": batch["image"].reshape(len(grid), -1, 16 * 16 * 3),
    "image_mask": np.arange(16) < grid.prod(1)[:, None],
    "image_grid": grid,
  }
  return batch | parts


def _one_step(strategy, sizes, family="pali", has_lora=False):
  """Parameters and metrics after a step, as numpy."""
  devices = jax.devices()[: int(np.prod(list(sizes.values())))]
  made = mesh.make(sizes, devices)
  graphdef, variables = _model(family, has_lora)
  params = nnx.to_pure_dict(variables)
  # Adam's first step is the gradient's sign, which is noise where a gradient
  # is 0 but for rounding (as that of a key's bias): eps makes it smooth.
  tx = optax.adamw(1e-2, eps=1e-3)
  is_trained = trees.mask(params, [lora.UPDATES] if has_lora else [""])
  trained, frozen = step.split(params, is_trained)
  shardings = place.param_shardings(variables, made, strategy)
  abstract = place.abstract_state(trained, shardings, tx, made, frozen)
  state = jax.jit(
    functools.partial(step.init_state, tx=tx),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
  )(trained, frozen=frozen)
  rows = _in_patches(_batch()) if "naflex" in family else _batch()
  batch = place.put_batch(rows, place.batch_sharding(made, strategy))
  compiled = step.compile_train_step(
    state,
    batch,
    graphdef=graphdef,
    tx=tx,
    loss=place.constrained(fused.step_by_step, made, strategy),
  )
  state, metrics = compiled(state, batch)
  return jax.device_get((state.params, metrics))


@functools.cache
def _unsharded(family="pali", has_lora=False):
  return _one_step("data_parallel", {"data": 1}, family, has_lora)


@pytest.mark.parametrize(
  "strategy,sizes,family,has_lora",
  [
    ("data_parallel", {"replica": 2, "data": 4}, "pali", False),
    ("fsdp", {"replica": 2, "data": 2, "fsdp": 2}, "pali", False),
    ("fsdp", {"fsdp": 2, "sequence": 4}, "pali", False),
    ("fsdp_tensor", {"fsdp": 2, "sequence": 2, "tensor": 2}, "pali", False),
    ("fsdp_tensor", {"fsdp": 2, "sequence": 2, "tensor": 2}, "pali", True),
    ("fsdp", {"fsdp": 4, "sequence": 2}, "pali naflex", False),
    (
      "fsdp_tensor",
      {"fsdp": 2, "sequence": 2, "tensor": 2},
      "paligemma",
      False,
    ),
  ],
)
def test_sharded_is_unsharded(strategy, sizes, family, has_lora):
  found = _one_step(strategy, sizes, family, has_lora)
  # float32: the sums over rows and devices are taken in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    found,
    _unsharded(family, has_lora),
  )


def _placed(tx, sizes, strategy="fsdp"):
  """(abstract state, its optimizer state after an update) of a tiny PaLI."""
  made = mesh.make(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
  graphdef, params = tiny.pali()
  variables = nnx.state(step.merge(graphdef, params), nnx.Param)
  shardings = place.param_shardings(variables, made, strategy)
  abstract = place.abstract_state(params, shardings, tx, made, has_ema=True)
  rng = np.random.default_rng(0)
  grads = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype), params
  )
  placed = jax.tree.map(lambda x: x.sharding, abstract)
  update = jax.jit(
    lambda grads, params: tx.update(grads, tx.init(params), params)[1],
    in_shardings=(placed.params, placed.params),
    out_shardings=placed.opt_state,
  )
  return abstract, update(grads, params)


def test_adafactor_keeps_its_sums_with_their_parameter():
  tx = optim.make(total_steps=4, lr=1e-2, name="adafactor", min_factored=8).tx
  _, found = _placed(tx, {"fsdp": 8})
  named = trees.flatten_with_names(found)
  [factored] = [
    x
    for name, x in named.items()
    if "v_row" in name and name.endswith("encoder/blocks/mlp/down/kernel")
  ]
  # [layers, mlp, embed] has lost the longer of the last two: embed is cut.
  assert factored.shape == (1, 16)
  assert factored.addressable_shards[0].data.shape == (1, 2)
  _, whole = _placed(tx, {"data": 1})
  expected = trees.flatten_with_names(whole)
  for name, x in named.items():
    # float32: sums over a cut axis are taken in another order.
    np.testing.assert_allclose(
      np.asarray(x, np.float32),
      np.asarray(expected[name], np.float32),
      rtol=1e-5,
      atol=1e-6,
      err_msg=name,
    )


def test_fsdp_leaves_a_share_of_each_parameter_on_a_device():
  abstract, _ = _placed(optax.adamw(1e-2), {"fsdp": 4, "sequence": 2})
  kernel = abstract.params["encoder"]["blocks"]["mlp"]["up"]["kernel"]
  assert kernel.sharding.shard_shape(kernel.shape) == (1, 2, 32)
  for like in (abstract.opt_state[0].mu, abstract.ema):
    assert like["head"]["kernel"].sharding == (
      abstract.params["head"]["kernel"].sharding
    )


def _gradients(sizes, strategy, layers):
  """Compiled gradients of a scanned PaLI, for its shapes."""
  made = mesh.make(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
  depth = dict.fromkeys(("vit_depth", "encoder_depth", "decoder_depth"), layers)
  graphdef, params = tiny.pali(is_scanned=True, image_size=PX, **depth)
  variables = nnx.state(step.merge(graphdef, params), nnx.Param)
  shardings = place.param_shardings(variables, made, strategy)
  abstract = place.abstract_state(params, shardings, optax.sgd(1.0), made)
  rows = place.batch_sharding(made, strategy)
  batch = {
    name: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=place.input_sharding(name, rows)
    )
    for name, x in _batch().items()
  }
  loss = place.constrained(fused.step_by_step, made, strategy)

  def value(params, batch):
    return loss(step.merge(graphdef, params), batch)[0]

  return jax.jit(jax.grad(value)).lower(abstract.params, batch).compile()


def test_image_tokens_stay_cut_over_sequence():
  text = _gradients({"fsdp": 2, "sequence": 4}, "fsdp", 3).as_text()
  assert text is not None
  # Rows, heads, queries, keys: 4 of an image's 16 tokens in the tower, 6 of 24
  # positions in the encoder; there each row has both of its prompts.
  assert "f32[4,2,4,16]" in text and "f32[8,2,6,24]" in text
  for whole in ("f32[4,2,16,16]", "f32[8,2,24,24]", "f32[2,24,24]"):
    assert whole not in text
  # Parameters are gathered a layer at a time, not as whole stacks.
  gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)
  assert "16,32" in gathered  # An MLP's kernel.
  assert not [shape for shape in gathered if shape.startswith("3,16")]


def test_prompt_that_does_not_divide_over_sequence_is_named():
  made = mesh.make({"data": -1, "sequence": 4})
  constrained = place.constrained(fused.step_by_step, made, "fsdp")
  graphdef, params = tiny.pali(image_size=PX)
  batch = _batch() | {"label_prompt": np.zeros((8, 7), np.int32)}
  batch["rationale_prompt"] = batch["label_prompt"]
  with pytest.raises(
    ValueError, match=r"23 tokens do not divide over .*sequence.*lengths.prompt"
  ):
    jax.eval_shape(constrained, step.merge(graphdef, params), batch)


def test_images_are_cut_along_their_height():
  made = mesh.make({"fsdp": 2, "sequence": 4})
  rows = place.batch_sharding(made, "fsdp")
  batch = _batch()
  put = place.put_batch(batch, rows)
  assert put["image"].addressable_shards[0].data.shape == (4, PX // 4, PX, 3)
  assert put["label_target"].addressable_shards[0].data.shape == (4, 3)
  for name, expected in batch.items():
    np.testing.assert_array_equal(put[name], expected)
  with pytest.raises(ValueError, match=r"dimension 1 of 'image'.*'sequence'"):
    place.put_batch({"image": batch["image"][:, :6]}, rows)


def test_image_whose_patches_do_not_divide_is_named():
  made = mesh.make({"data": -1, "sequence": 4})
  place.check_image(64, 16, made)
  with pytest.raises(
    ValueError,
    match=r"image_px=96 has 6 rows of patches of 16 px.*try sequence=1 or 2 or"
    r" 3 or 6, or image_px=64 or 128\.",
  ):
    place.check_image(96, 16, made)


def test_batch_size_message_names_what_would_do():
  sharding = place.batch_sharding(mesh.make({"data": -1}), "data_parallel")
  with pytest.raises(ValueError, match=r"batch_size=250.*try 248 or 256"):
    place.check_batch_size(250, sharding)
  with pytest.raises(ValueError, match=r"batch_size=5 .*try 8\."):
    place.check_batch_size(5, sharding)
  place.check_batch_size(256, sharding)
  with pytest.raises(ValueError, match=r"5 rows of 'x' do not divide .* 8"):
    place.put_batch({"x": np.zeros((5, 2))}, sharding)


def test_parameter_that_does_not_divide_is_named():
  graphdef, params = tiny.pali(width=18)
  state = nnx.state(step.merge(graphdef, params), nnx.Param)
  made = mesh.make({"fsdp": 4, "data": -1})
  with pytest.raises(
    ValueError, match=r"parameter .*18.*fsdp x sequence \(4\)"
  ):
    place.param_shardings(state, made, "fsdp")


def test_one_device_is_left_as_it_is():
  made = mesh.make({"data": 1}, jax.devices()[:1])
  assert place.constrained(fused.step_by_step, made, "fsdp") is (
    fused.step_by_step
  )
  assert place.batch_sharding(made, "fsdp").spec == PartitionSpec(
    ("replica", "data", "fsdp")
  )
