"""Attention across another sequence, with keys and without; the bias's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpd_jax.models import attention, layers, lora, quantized

# Queries, keys, width of either sequence, heads and their width.
T, S, D, N, H = 3, 11, 32, 4, 8


class _Holder(nnx.Module):
  """What `lora.add` and `quantized.replace` look for projections in."""

  def __init__(self, *, use_bias=False, is_scaled=False, has_qk_norm=False):
    self.cross = attention.Attention(
      D,
      N,
      H,
      rngs=layers.Keys(0),
      use_bias=use_bias,
      is_scaled=is_scaled,
      has_qk_norm=has_qk_norm,
    )


def _inputs(queries=T, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(1), 3)
  x_BTD = jax.random.normal(keys[0], (2, queries, D), dtype)
  other_BSD = jax.random.normal(keys[1], (2, S, D), dtype)
  mask_B1S = jnp.arange(S)[None, None] < jnp.array([S, 4])[:, None, None]
  return x_BTD, other_BSD, mask_B1S


def _with_update(**options):
  holder = lora.add(_Holder(), ["cross/"], rank=2, alpha=6.0, **options)
  for index, linear in enumerate((holder.cross.key, holder.cross.value)):
    b = linear.lora.b
    b.set_value(jax.random.normal(jax.random.key(index), b.shape))
  return holder


def _both(holder, x_BTD, other_BSD, mask_B1S, key=None):
  """(across, by keys and values): each a value and its gradients."""
  graphdef, params = nnx.split(holder, nnx.Param)

  def across(params, x_BTD, other_BSD):
    cross = nnx.merge(graphdef, params).cross
    return cross.across(x_BTD, other_BSD, mask_B1S, key)

  def by_keys(params, x_BTD, other_BSD):
    cross = nnx.merge(graphdef, params).cross
    kv_key, own_key = layers.split(key, 2)
    made = cross.keys_values(other_BSD, kv_key)
    return cross(x_BTD, *made, mask_B1S, key=own_key)

  @functools.partial(jax.jit, static_argnums=0)
  def both_ways(function, *inputs):
    y_BTD, back = jax.vjp(function, *inputs)
    of_y = jax.random.normal(jax.random.key(2), y_BTD.shape)
    return y_BTD, back(of_y.astype(y_BTD.dtype))

  return [
    both_ways(function, params, x_BTD, other_BSD)
    for function in (across, by_keys)
  ]


def _compare(found, tolerance):
  for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
    scale = jnp.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def _makes_keys(holder, *inputs, key=None):
  """Whether an array of every key of every head is computed."""
  text = str(jax.make_jaxpr(lambda *a: holder.cross.across(*a, key))(*inputs))
  return f"f32[2,{S},{N},{H}]" in text


@pytest.mark.parametrize("make", [_Holder, _with_update])
def test_few_queries_look_across_without_keys(make):
  holder = make()
  assert not _makes_keys(holder, *_inputs())
  _compare(_both(holder, *_inputs()), 1e-5)


def test_many_queries_look_across_with_keys():
  assert _makes_keys(_Holder(), *_inputs(queries=H))
  _compare(_both(_Holder(), *_inputs(queries=H)), 0)


def test_a_scaled_head_looks_across_the_same():
  holder = _Holder(is_scaled=True)
  assert not _makes_keys(holder, *_inputs())
  _compare(_both(holder, *_inputs()), 1e-5)


def test_bfloat16_loses_little_more_than_by_keys():
  x_BTD, other_BSD, mask_B1S = _inputs(dtype=jnp.bfloat16)
  x32_BTD, other32_BSD = (x.astype(jnp.float32) for x in (x_BTD, other_BSD))
  by_float32 = _both(_with_update(), x32_BTD, other32_BSD, mask_B1S)[1]
  exact = jax.tree.leaves(by_float32)
  errors = []
  for found in _both(_with_update(), x_BTD, other_BSD, mask_B1S):
    pairs = zip(jax.tree.leaves(found), exact, strict=True)
    # Where b is 0, so is a's gradient.
    parts = [jnp.abs(x - y).max() / (jnp.abs(y).max() + 1e-9) for x, y in pairs]
    errors.append(float(max(parts)))
  ours, by_keys = errors
  assert 0 < ours < 1.5 * by_keys < 0.1


@pytest.mark.parametrize("options", [{"use_bias": True}, {"has_qk_norm": True}])
def test_what_comes_after_a_product_needs_keys(options):
  holder = _Holder(**options)
  assert _makes_keys(holder, *_inputs())
  _compare(_both(holder, *_inputs()), 0)


def test_dropout_of_an_update_needs_keys():
  holder, key = _with_update(dropout=0.5), jax.random.key(3)
  assert _makes_keys(holder, *_inputs(), key=key)
  assert not _makes_keys(holder, *_inputs())
  _compare(_both(holder, *_inputs(), key=key), 0)


def test_a_quantized_kernel_needs_keys():
  pytest.importorskip("qwix")
  holder = _Holder()
  params = nnx.state(holder, nnx.Param)
  holder = quantized.replace(
    holder, quantized.kernels(nnx.to_pure_dict(params), "int8")
  )
  assert _makes_keys(holder, *_inputs())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_gradient_of_a_bias_sums_over_the_batch(batch):
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v = (jax.random.normal(key, (batch, S, N, H)) for key in keys[:3])
  bias_NSS = jax.random.normal(keys[3], (N, S, S))
  repeated = jnp.repeat(bias_NSS[None], batch, axis=0)

  def of(bias, q, k, v):
    return jnp.sum(attention.attend(q, k, v, None, bias) ** 2)

  def of_one(bias, *qkv):
    return jax.grad(of)(bias, *(x[None] for x in qkv))

  found = jax.jit(jax.grad(of))(bias_NSS, q, k, v)
  of_each = jax.jit(jax.vmap(of_one))(repeated, q, k, v)
  np.testing.assert_allclose(found, of_each.sum(0), rtol=1e-4, atol=1e-5)
