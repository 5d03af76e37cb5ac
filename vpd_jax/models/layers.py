"""Norms, projections, embeddings and MLPs, with logical axis names.

Every parameter is an `nnx.Param` with a metadata field `axes`: one logical
name per dimension, such as ("embed", "mlp"). `vpd_jax.sharding.rules` turns
those names into mesh axes; a layer knows nothing of meshes. Here and there a
layer names the axes of an activation too, with `constrain`.

Letters beyond the common legend: I input width, O output width.
"""

import contextlib
import contextvars
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Constraint = Callable[[jax.Array, Sequence[str | None]], jax.Array]

# Below this many rows an embedding is looked up by a product with one-hot
# vectors: on CPU the gradient of a gather is a slow scatter.
ONE_HOT_ROWS = 2048

# What an MLP may have between its products. "gelu" is the tanh form: SigLIP,
# T5 v1.1 and their kin were trained with it; "gelu_erf" is BERT's and EVA's.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = (
  types.MappingProxyType(
    {
      "gelu": functools.partial(jax.nn.gelu, approximate=True),
      "gelu_erf": functools.partial(jax.nn.gelu, approximate=False),
      "relu": jax.nn.relu,
      "silu": jax.nn.silu,
    }
  )
)


# What `constrain` does, told from outside while a function is traced.
_CONSTRAINT: contextvars.ContextVar[Constraint | None] = contextvars.ContextVar(
  "constraint", default=None
)


@contextlib.contextmanager
def constrained(constraint: Constraint) -> Iterator[None]:
  """Within, `constrain` is this: (array, logical axes) -> array."""
  token = _CONSTRAINT.set(constraint)
  try:
    yield
  finally:
    _CONSTRAINT.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """The same array, cut over devices along these logical axes.

  Args:
    x: an activation.
    *axes: a name per leading dimension: "batch", "tokens" (positions of a long
      sequence), "heads"; None: whole, as are dimensions without a name.
  """
  constraint = _CONSTRAINT.get()
  return x if constraint is None else constraint(x, axes)


def split(key: jax.Array | None, parts: int) -> Sequence[Any]:
  """A dropout key for each of so many parts; None, no dropout, for each."""
  if key is None:
    return (None,) * parts
  return list(jax.random.split(key, parts))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes a share of the values and scales the others; no key: none."""
  if not rate or key is None:
    return x
  is_kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(is_kept, x / (1 - rate), 0)


class Keys:
  """Keys of initial weights, the same as those of `nnx.Rngs(params=...)`.

  They are derived many at a time: one by one they would be a third of what
  there is to compile before a run starts.

  Args:
    params: a seed, or a PRNG key.
  """

  AT_A_TIME = 64

  def __init__(self, params: int | jax.Array):
    self._key = jax.random.key(params) if isinstance(params, int) else params
    self._given = 0

  def params(self) -> jax.Array:
    """The next key, of one parameter or of a stack of them."""
    place = self._given % self.AT_A_TIME
    if not place:
      numbers = self._given + jnp.arange(self.AT_A_TIME, dtype=jnp.uint32)
      self._keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, numbers)
    self._given += 1
    return self._keys[place]


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
  """Layer normalisation with scale and bias, as in ViT.

  Args:
    width: of the last dimension.
    eps: added to the variance.
    use_bias: whether there is one.
    axis: logical name of the last dimension.
  """

  def __init__(
    self,
    width: int,
    *,
    eps: float = 1e-6,
    use_bias: bool = True,
    axis: str | None = "embed",
  ):
    self.scale = constant((width,), (axis,), 1.0)
    self.bias = constant((width,), (axis,), 0.0) if use_bias else None
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]; statistics in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
    x = (x32 * inverse).astype(x.dtype) * _row(self.scale, x)
    return x if self.bias is None else x + _row(self.bias, x)


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """float[..., I], [I, O] -> [..., O], with a gradient that is cheap on CPU.

  The matrix's gradient is x^T g, or (g^T x)^T. One of the two is transposed in
  memory, and with it, on CPU, all that is computed to make it: here the
  narrower one. JAX takes g, which costs more than the product itself where x is
  narrow, as in a low-rank update.
  """
  return jnp.dot(x, matrix)


def _product_forward(x, matrix):
  return jnp.dot(x, matrix), (x, matrix)


def product_backward(kept, g):
  """Gradients of `product`: kept (x, matrix), g -> (of x, of the matrix)."""
  x, matrix = kept
  every = tuple(range(x.ndim - 1))
  dims = ((every, every), ((), ()))
  if x.shape[-1] <= g.shape[-1]:
    d_matrix = jax.lax.dot_general(x, g, dims)
  else:
    d_matrix = jax.lax.dot_general(g, x, dims).T
  return jnp.dot(g, matrix.T), d_matrix


product.defvjp(_product_forward, product_backward)


class Linear(nnx.Module):
  """A projection of the last dimension; bias only where asked for.

  Attributes:
    kernel: float32[I, O], or a `vpd_jax.models.quantized.Kernel`, which
      multiplies by itself; `quantized.replace` puts it there.
    lora: a low-rank update that is added to what the kernel gives, or None;
      `vpd_jax.models.lora` puts it there.
  """

  def __init__(
    self,
    width_in: int,
    width_out: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: Keys,
    use_bias: bool = False,
    std: float | None = None,
  ):
    kernel_std: float = width_in**-0.5 if std is None else std
    self.kernel: Any = param(
      rngs.params(), (width_in, width_out), axes, kernel_std
    )
    self.bias = constant((width_out,), (axes[1],), 0.0) if use_bias else None
    self.lora: Any = nnx.data(None)

  def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """float[..., I] -> float[..., O]; `key` is for the update's dropout."""
    update = self.lora
    if not isinstance(self.kernel, nnx.Param):
      y = self.kernel(x)
    elif update is not None and update.is_folded(x, key):
      y, update = update.fold(x, self.kernel[...].astype(x.dtype)), None
    else:
      y = product(x, self.kernel[...].astype(x.dtype))
    if self.bias is not None:
      y = y + _row(self.bias, y)
    return y if update is None else y + update(x, key)

  def by_group(
    self, x: jax.Array, groups: int, *, is_back: bool = False
  ) -> jax.Array:
    """Each row through one group of the columns, or back.

    Without bias and dropout, and not of a quantized kernel.

    Args:
      x: float[..., G, I], or float[..., G, O / G] where `is_back`.
      groups: G adjacent groups of columns; row g goes through the g-th.
      is_back: multiply by the group's transposed matrix.

    Returns:
      float[..., G, O / G], or float[..., G, I] where `is_back`.
    """
    y = _by_group(x, self.kernel[...], groups, is_back)
    if self.lora is None:
      return y
    a, b = self.lora.a[...], self.lora.b[...]
    if is_back:
      low = _by_group(x, b, groups, is_back)
      update = product(low, a.T.astype(x.dtype))
    else:
      low = product(x, a.astype(x.dtype))
      update = _by_group(low, b, groups, is_back)
    return y + update * self.lora.scale


def _by_group(
  x: jax.Array, matrix: jax.Array, groups: int, is_back: bool
) -> jax.Array:
  matrix = matrix.astype(x.dtype)
  matrix_IGO = matrix.reshape(len(matrix), groups, -1)
  equation = "...GO,IGO->...GI" if is_back else "...GI,IGO->...GO"
  return jnp.einsum(equation, x, matrix_IGO)


class Embedding(nnx.Module):
  """Token vectors."""

  def __init__(self, rows: int, width: int, *, rngs: Keys):
    self.table = param(rngs.params(), (rows, width), ("vocab", "embed"), 1.0)
    self.rows = rows

  def __call__(self, tokens: jax.Array, dtype=jnp.float32) -> jax.Array:
    """int32[...] -> float[..., D]."""
    table = self.table[...].astype(dtype)
    if self.rows <= ONE_HOT_ROWS:
      return jax.nn.one_hot(tokens, self.rows, dtype=dtype) @ table
    return jnp.take(table, tokens, axis=0)

  def scores(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., V]: products with each token's vector."""
    return jnp.einsum("...D,VD->...V", x, self.table[...].astype(x.dtype))


class GatedMLP(nnx.Module):
  """act(x W_gate) * (x W_up), then W_down: the MLP of T5 v1.1 and UL2.

  Source: Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202.
  """

  def __init__(
    self,
    width: int,
    mlp_width: int,
    *,
    activation: str = "gelu",
    rngs: Keys,
  ):
    self.activation = activation
    into = ("embed", "mlp")
    self.gate = Linear(width, mlp_width, into, rngs=rngs)
    self.up = Linear(width, mlp_width, into, rngs=rngs)
    self.down = Linear(mlp_width, width, ("mlp", "embed"), rngs=rngs)

  def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """float[..., D] -> float[..., D]."""
    gate_key, up_key, down_key = split(key, 3)
    gate = ACTIVATIONS[self.activation](self.gate(x, gate_key))
    return self.down(gate * self.up(x, up_key), down_key)


class MLP(nnx.Module):
  """act(x W_up + b) W_down + b: the MLP of ViT; of T5 1.0 without biases."""

  def __init__(
    self,
    width: int,
    mlp_width: int,
    *,
    activation: str = "gelu",
    use_bias: bool = True,
    rngs: Keys,
  ):
    self.activation = activation
    self.up = Linear(
      width, mlp_width, ("embed", "mlp"), rngs=rngs, use_bias=use_bias
    )
    self.down = Linear(
      mlp_width, width, ("mlp", "embed"), rngs=rngs, use_bias=use_bias
    )

  def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """float[..., D] -> float[..., D]."""
    up_key, down_key = split(key, 2)
    h = ACTIVATIONS[self.activation](self.up(x, up_key))
    return self.down(h, down_key)


def _row(parameter: nnx.Param, x: jax.Array) -> jax.Array:
  """A [D] parameter shaped for x[..., D]; rank promotion stays explicit."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  return parameter[...].astype(x.dtype).reshape(shape)
