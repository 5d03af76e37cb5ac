"""Frozen kernels in 8 and 4 bits: bytes, bounds, gradients, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tiny
from vpd_jax import optim, step, trees
from vpd_jax.checkpoint import store
from vpd_jax.losses import fused
from vpd_jax.models import layers, lora, quantized, stack
from vpd_jax.models.pali import model as pali
from vpd_jax.models.pali import sizes
from vpd_jax.sharding import mesh as mesh_lib
from vpd_jax.sharding import place

qwix = pytest.importorskip("qwix", reason="needs vpd_jax[qlora]")

UPDATED = ("(encoder|decoder)/blocks/",)
# Half a step: of int8 1 / 255 of a column's largest; of nf4 half the widest
# gap between its levels, -1 and -0.696, of a tile's largest.
HALF_STEP = {"int8": 1 / 255 + 1e-6, "nf4": 0.15191}
TRAIN = {"train": (lora.UPDATES,)}


def _kernel(shape, seed=0):
  drawn = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(drawn, jnp.float32)


@functools.cache
def _made(is_scanned=True):
  options = sizes.get("debug") | {"encoder_depth": 2, "vit_depth": 2}
  options |= {"is_scanned": is_scanned}

  def make():
    model = pali.Model(vocab_size=tiny.VOCAB, **options)
    return lora.add(model, UPDATED, rank=2, alpha=2.0)

  graphdef = nnx.split(nnx.eval_shape(make), nnx.Param)[0]
  params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(make(), nnx.Param)))()
  # As after some training: b is no longer zero.
  rng = np.random.default_rng(1)
  named = {
    name: jnp.asarray(rng.standard_normal(x.shape) * 0.3, jnp.float32)
    if name.endswith("lora/b")
    else x
    for name, x in trees.flatten_with_names(params).items()
  }
  return graphdef, trees.unflatten_like(params, named)


def _trainer(dtype, is_scanned=True, **options):
  """(state, graphdef, tx) with frozen weights of that dtype."""
  graphdef, params = _made(is_scanned)
  # Not Adam, whose first step is the gradient's sign.
  optimizer = optim.make(
    **({"total_steps": 10, "lr": 1e-2, "frozen_dtype": dtype} | TRAIN | options)
  )
  trained, frozen = jax.jit(optimizer.partition)(params)
  model = quantized.replace(step.merge(graphdef, params), frozen)
  graphdef = nnx.split(model, nnx.Param)[0]
  state = step.init_state(trained, optimizer.tx, frozen)
  state = jax.device_put(jax.tree.map(jnp.copy, state), jax.devices()[0])
  return state, graphdef, optimizer.tx


def _batch():
  return jax.device_put(tiny.on_device(tiny.batch()), jax.devices()[0])


@functools.cache
def _logits_and_grads(dtype, is_scanned=True):
  state, graphdef, _ = _trainer(dtype, is_scanned)
  batch = _batch()

  @jax.jit
  def both(params, frozen):
    def loss(params):
      model = step.merge(graphdef, step.join(params, frozen))
      return fused.step_by_step(model, batch, None)[0]

    model = step.merge(graphdef, step.join(params, frozen))
    keys = ("image", "rationale_prompt", "rationale_target")
    return model(*(batch[k] for k in keys)), jax.grad(loss)(params)

  return both(state.params, state.frozen)


@pytest.mark.parametrize("shape", [(128, 6), (3, 48, 5), (588, 2)])
@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_each_weight_is_within_half_a_step(dtype, shape, strict_dtypes):
  kernel = _kernel(shape)
  made = jax.jit(quantized.quantize, static_argnums=1)(kernel, dtype)
  values, scale = made["values"], made["scale"]
  back = jax.jit(quantized.dequantize, static_argnums=2)(values, scale, dtype)
  assert back.dtype == jnp.float32 and back.shape == shape
  *layers_, width, width_out = shape
  tile = {128: 64, 48: 48, 588: 42}[width] if dtype == "nf4" else width
  assert scale.shape == (*layers_, width // tile, width_out)
  rows = width // 2 if dtype == "nf4" else width
  assert values.shape == (*layers_, rows, width_out)
  assert values.dtype == (jnp.uint8 if dtype == "nf4" else jnp.int8)
  tiles = np.asarray(kernel).reshape(*layers_, -1, tile, width_out)
  largest = np.abs(tiles).max(-2, keepdims=True)
  error = np.abs(np.asarray(back).reshape(tiles.shape) - tiles)
  assert (error <= HALF_STEP[dtype] * largest).all()
  assert (error.max(-2, keepdims=True) > 0.3 * HALF_STEP[dtype] * largest).any()


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_numerics_are_qwixs_of_the_whole_array(dtype):
  kernel = _kernel((128, 6))
  made = quantized.quantize(kernel, dtype)
  tiles = {0: 64} if dtype == "nf4" else {}
  expected = qwix.quantize(
    kernel, dtype, channelwise_axes=(1,), tiled_axes=tiles
  )
  np.testing.assert_array_equal(
    quantized.dequantize(made["values"], made["scale"], dtype),
    qwix.dequantize(expected),
  )


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_a_column_of_zeros_stays(dtype):
  made = quantized.quantize(jnp.zeros((16, 2)), dtype)
  back = quantized.dequantize(made["values"], made["scale"], dtype)
  np.testing.assert_array_equal(back, 0)


@pytest.mark.parametrize("dtype", quantized.DTYPES)
@pytest.mark.parametrize("of_input", ["float32", "bfloat16"])
def test_a_projection_computes_with_the_rounded_kernel(
  dtype, of_input, strict_dtypes
):
  linear = layers.Linear(
    16, 5, ("embed", "mlp"), rngs=layers.Keys(0), use_bias=True
  )
  holder = nnx.Dict(one=linear)
  params = nnx.to_pure_dict(nnx.state(holder, nnx.Param))
  quantized.replace(holder, quantized.kernels(params, dtype))
  assert isinstance(linear.kernel, quantized.Kernel)
  x = _kernel((3, 16), 1).astype(of_input)
  found, pull = jax.vjp(linear, x)
  (gradient,) = pull(jnp.ones_like(found))
  quantized.restore(holder)
  assert isinstance(linear.kernel, nnx.Param)
  assert linear.kernel.get_metadata()["axes"] == ("embed", "mlp")
  expected, pull = jax.vjp(linear, x)
  assert found.dtype == gradient.dtype == x.dtype
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_allclose(
    np.float32(gradient), np.float32(pull(jnp.ones_like(found))[0]), rtol=1e-2
  )


@pytest.mark.parametrize("width", [17, 6, 2 * 67])
def test_a_width_that_nf4_cannot_have_is_named(width):
  with pytest.raises(ValueError, match=f"{width} inputs cannot be nf4"):
    quantized.quantize(jnp.ones((width, 2)), "nf4")


def test_which_arrays_are_quantized_and_their_bytes():
  full, *_ = _trainer("float32")
  before = trees.flatten_with_names(full.frozen)
  for dtype, share in (("int8", 1 / 4), ("nf4", 1 / 8)):
    state, graphdef, _ = _trainer(dtype)
    after = trees.flatten_with_names(state.frozen)
    kernels = {n for n in before if n.endswith("/kernel")}
    assert len(kernels) >= 19
    assert set(after) - set(before) == {
      f"{n}/{end}" for n in kernels for end in quantized.ARRAYS
    }
    assert set(before) - set(after) == kernels
    for name in kernels:
      values, scale = (after[f"{name}/{end}"] for end in quantized.ARRAYS)
      assert values.nbytes == share * before[name].nbytes
      tile = before[name].shape[-2] // scale.shape[-2]
      assert scale.nbytes == before[name].nbytes / tile
    for name in set(before) & set(after):
      np.testing.assert_array_equal(after[name], before[name])
    # What trains is as it was.
    assert jax.tree.structure(state.params) == jax.tree.structure(full.params)
    # All parameters are where the model looks for them.
    model = step.merge(graphdef, state.all_params)
    names = trees.flatten_with_names(
      nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    assert set(names) == set(after) | set(trees.flatten_with_names(full.params))


# Of weights drawn from a normal, int8 keeps all but 0.8 %, nf4
# all but 9 % (root mean square), which adds up over the blocks.
@pytest.mark.parametrize("dtype,bound", [("int8", 0.03), ("nf4", 0.5)])
def test_logits_are_close(dtype, bound):
  expected, _ = _logits_and_grads("float32")
  found, _ = _logits_and_grads(dtype)
  error = float(jnp.std(found - expected) / jnp.std(expected))
  assert bound / 30 < error < bound


@pytest.mark.parametrize("dtype,bound", [("int8", 0.998), ("nf4", 0.8)])
def test_gradients_of_updates_are_close(dtype, bound):
  _, expected = _logits_and_grads("float32")
  _, found = _logits_and_grads(dtype)
  a, b = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])
    for t in (expected, found)
  )
  cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  assert bound < cosine < 1 - 1e-8


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_scanned_is_unrolled(dtype):
  for a, b in zip(
    _logits_and_grads(dtype), _logits_and_grads(dtype, False), strict=True
  ):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-4), a, b
    )


@functools.cache
def _step(dtype):
  """(state before a step, on the host, state after it, metrics)."""
  state, graphdef, tx = _trainer(dtype)
  compiled = step.compile_train_step(
    state, _batch(), graphdef=graphdef, tx=tx, loss=fused.step_by_step
  )
  before = jax.device_get(state)
  return before, *compiled(state, _batch())


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_a_step_moves_the_updates_alone(dtype, tmp_path):
  before, state, metrics = _step(dtype)
  assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
  jax.tree.map(np.testing.assert_array_equal, before.frozen, state.frozen)
  for name, x in trees.flatten_with_names(state.params).items():
    assert np.any(x != trees.flatten_with_names(before.params)[name]), name
  # And comes back from disk as it was.
  store.save_frozen(tmp_path / "frozen", state.frozen)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state.frozen,
  )
  restored = store.restore_frozen(tmp_path / "frozen", shapes)
  for a, b in zip(
    jax.tree.leaves(restored), jax.tree.leaves(state.frozen), strict=True
  ):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_float_kernels_of_all_layers_are_not_kept(dtype):
  """A scan holds those of a layer or two; kept, they would be 1.2 of all."""
  depth, width, rows = 8, 64, 2

  def make(rngs):
    return layers.MLP(width, 4 * width, rngs=rngs, use_bias=False)

  blocks = stack.make(make, depth, layers.Keys(0))
  holder = nnx.Dict(blocks=blocks)
  params = nnx.to_pure_dict(nnx.state(holder, nnx.Param))
  whole = sum(x.nbytes for x in jax.tree.leaves(params))
  quantized.replace(holder, quantized.kernels(params, dtype))
  graphdef, arrays = nnx.split(holder.blocks)

  def loss(x, arrays):
    y, _ = stack.run(
      nnx.merge(graphdef, arrays),
      lambda block, x, _: (x + block(x), None),
      x,
    )
    return jnp.sum(y**2)

  compiled = (
    jax.jit(jax.grad(loss)).lower(jnp.ones((rows, width)), arrays).compile()
  )
  spare = compiled.memory_analysis().temp_size_in_bytes
  assert spare < 0.4 * whole


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_sharded_is_unsharded(dtype):
  before, expected, _ = _step(dtype)
  params = before.all_params
  state, graphdef, tx = _trainer(dtype)
  made = mesh_lib.make({"data": 2, "fsdp": 2, "tensor": 2})
  variables = nnx.state(step.merge(graphdef, params), nnx.Param)
  shardings = place.param_shardings(variables, made, "fsdp_tensor")
  abstract = place.abstract_state(
    state.params, shardings, tx, made, state.frozen
  )
  named = trees.flatten_with_names(abstract.frozen)
  up = "encoder/blocks/mlp/up/kernel"
  is_cut = jax.sharding.PartitionSpec(None, ("fsdp", "sequence"), "tensor")
  assert named[f"{up}/values"].sharding.spec == is_cut
  # 16 inputs are one tile: its row cannot be cut.
  assert named[f"{up}/scale"].sharding.spec == jax.sharding.PartitionSpec(
    None, None, "tensor"
  )
  state = jax.tree.map(
    lambda x, to: jax.device_put(np.asarray(x), to.sharding), state, abstract
  )
  batch = place.put_batch(
    tiny.batch(), place.batch_sharding(made, "fsdp_tensor")
  )
  compiled = step.compile_train_step(
    state, batch, graphdef=graphdef, tx=tx, loss=fused.step_by_step
  )
  found, _ = compiled(state, batch)
  for name, x in trees.flatten_with_names(found.opt_state).items():
    other = trees.flatten_with_names(expected.opt_state)[name]
    np.testing.assert_allclose(x, other, rtol=1e-3, atol=1e-5, err_msg=name)


def test_merging_into_a_quantized_kernel_is_refused_until_restored():
  state, graphdef, _ = _trainer("int8")
  model = step.merge(graphdef, state.all_params)
  with pytest.raises(ValueError, match=r"key is quantized.*restore"):
    lora.merge(model)
  with pytest.raises(ValueError, match="projection is quantized"):
    lora.add(model, ["projection"], rank=2, alpha=1.0)
  keys = ("image", "rationale_prompt", "rationale_target")
  inputs = [_batch()[k] for k in keys]
  merged = lora.merge(quantized.restore(model))
  found = jax.jit(lambda m: m(*inputs))(merged)
  expected, _ = _logits_and_grads("int8")
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_installed_is_named(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "qwix", None)
  with pytest.raises(ImportError, match=r"vpd_jax\[qlora\]"):
    optim.make(total_steps=1, lr=1.0, frozen_dtype="nf4")
