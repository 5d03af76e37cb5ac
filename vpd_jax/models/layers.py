"""Norms, projections, embeddings and MLPs, with logical axis names.

Every parameter is an `nnx.Param` with a metadata field `axes`: one logical
name per dimension, such as ("embed", "mlp"). `vpd_jax.sharding.rules` turns
those names into mesh axes; a layer knows nothing of meshes.

Letters beyond the common legend: I input width, O output width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

# Below this many rows an embedding is looked up by a product with one-hot
# vectors: on CPU the gradient of a gather is a slow scatter.
ONE_HOT_ROWS = 2048


def param(
  key: jax.Array,
  shape: Sequence[int],
  axes: Sequence[str | None],
  std: float,
) -> nnx.Param:
  """A float32 parameter drawn from a normal of that standard deviation."""
  if len(shape) != len(axes):
    raise ValueError(f"shape {tuple(shape)} needs one axis name each: {axes}")
  value = jax.random.normal(key, tuple(shape), jnp.float32) * std
  return nnx.Param(value, axes=tuple(axes))


def constant(
  shape: Sequence[int], axes: Sequence[str | None], value: float
) -> nnx.Param:
  """A float32 parameter filled with one value."""
  return nnx.Param(jnp.full(tuple(shape), value, jnp.float32), axes=tuple(axes))


class RMSNorm(nnx.Module):
  """Scales by the root mean square; no mean, no bias (T5's layer norm).

  Source: Zhang and Sennrich, arXiv:1910.07467.
  """

  def __init__(self, width: int, *, eps: float = 1e-6):
    self.scale = constant((width,), ("embed",), 1.0)
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]; statistics in float32."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
    return (x32 * inverse).astype(x.dtype) * _row(self.scale, x)


class LayerNorm(nnx.Module):
  """Layer normalisation with scale and bias, as in ViT."""

  def __init__(self, width: int, *, eps: float = 1e-6):
    self.scale = constant((width,), ("embed",), 1.0)
    self.bias = constant((width,), ("embed",), 0.0)
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]; statistics in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
    x = (x32 * inverse).astype(x.dtype)
    return x * _row(self.scale, x) + _row(self.bias, x)


class Linear(nnx.Module):
  """A projection of the last dimension; bias only where asked for."""

  def __init__(
    self,
    width_in: int,
    width_out: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    use_bias: bool = False,
    std: float | None = None,
  ):
    kernel_std: float = width_in**-0.5 if std is None else std
    self.kernel = param(rngs.params(), (width_in, width_out), axes, kernel_std)
    self.bias = constant((width_out,), (axes[1],), 0.0) if use_bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., I] -> float[..., O]."""
    y = jnp.dot(x, self.kernel[...].astype(x.dtype))
    return y if self.bias is None else y + _row(self.bias, y)


class Embedding(nnx.Module):
  """Token vectors."""

  def __init__(self, rows: int, width: int, *, rngs: nnx.Rngs):
    self.table = param(rngs.params(), (rows, width), ("vocab", "embed"), 1.0)
    self.rows = rows

  def __call__(self, tokens: jax.Array, dtype=jnp.float32) -> jax.Array:
    """int32[...] -> float[..., D]."""
    table = self.table[...].astype(dtype)
    if self.rows <= ONE_HOT_ROWS:
      return jax.nn.one_hot(tokens, self.rows, dtype=dtype) @ table
    return jnp.take(table, tokens, axis=0)


class GatedMLP(nnx.Module):
  """gelu(x W_gate) * (x W_up), then W_down: the MLP of T5 v1.1.

  Source: Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202.
  """

  def __init__(self, width: int, mlp_width: int, *, rngs: nnx.Rngs):
    into = ("embed", "mlp")
    self.gate = Linear(width, mlp_width, into, rngs=rngs)
    self.up = Linear(width, mlp_width, into, rngs=rngs)
    self.down = Linear(mlp_width, width, ("mlp", "embed"), rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]."""
    return self.down(jax.nn.gelu(self.gate(x), approximate=True) * self.up(x))


class MLP(nnx.Module):
  """gelu(x W_up + b) W_down + b: the MLP of ViT."""

  def __init__(self, width: int, mlp_width: int, *, rngs: nnx.Rngs):
    self.up = Linear(
      width, mlp_width, ("embed", "mlp"), rngs=rngs, use_bias=True
    )
    self.down = Linear(
      mlp_width, width, ("mlp", "embed"), rngs=rngs, use_bias=True
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]."""
    return self.down(jax.nn.gelu(self.up(x), approximate=True))


def _row(parameter: nnx.Param, x: jax.Array) -> jax.Array:
  """A [D] parameter shaped for x[..., D]; rank promotion stays explicit."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  return parameter[...].astype(x.dtype).reshape(shape)
