"""Kernels of frozen projections in 8 or 4 bits, as in QLoRA.

    shapes = quantized.kernels(frozen, "nf4")   # of a tree of parameters
    model = quantized.replace(model, shapes)    # a model that holds them

A kernel "x/kernel" becomes two arrays, and the projection computes with
values * scale, in float32 and then cast to what its input is:

    int8  x/kernel/values  int8[..., I, O]       x/kernel/scale  [..., 1, O]
    nf4   x/kernel/values  uint8[..., I / 2, O]  x/kernel/scale  [..., I / C, O]

In nf4 a byte holds two rows of the kernel, the even one in its low bits; a
scale is shared by C rows, the largest even number up to 64 that divides I.
Only kernels are quantized, not embeddings, norms, biases and position tables.
The numerics are qwix's, an extra: vpd_jax[qlora].

Source: Dettmers et al., QLoRA, arXiv:2305.14314; scales are not quantized.
"""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers

DTYPES = ("int8", "nf4")
# Names of what a kernel becomes.
ARRAYS = ("values", "scale")
# Of nf4: rows that share a scale, at most and at least.
MAX_TILE, MIN_TILE = 64, 8


class Kernel(nnx.Module):
  """What a `layers.Linear` has in place of its kernel.

  Attributes:
    values, scale: see the module's text; float32 scales.
    dtype: of DTYPES.
  """

  def __init__(
    self, arrays: Mapping[str, Any], axes: tuple[str | None, ...], dtype: str
  ):
    self.values = nnx.Param(arrays["values"], axes=axes)
    # Few rows: where a mesh does not divide them, each device has them all.
    self.scale = nnx.Param(
      arrays["scale"],
      axes=(*axes[:-2], axes[-2] if dtype == "nf4" else None, axes[-1]),
      may_be_whole=True,
    )
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., I] -> float[..., O]; there is no gradient to the kernel."""
    return _product(self.dtype, x, self.values[...], self.scale[...])

  def param(self) -> nnx.Param:
    """The kernel as a float32 parameter."""
    value = dequantize(self.values[...], self.scale[...], self.dtype)
    return nnx.Param(value, axes=self.values.get_metadata()["axes"])


def quantize(kernel: jax.Array, dtype: str) -> dict[str, jax.Array]:
  """A kernel float[..., I, O] -> {"values", "scale"}, see the module's text.

  Args:
    kernel: of one projection, or of a stack of them.
    dtype: of DTYPES.

  Raises:
    ValueError: if nf4 has no tile for its input width.
    ImportError: if qwix is not installed.
  """
  qwix, width = library(), kernel.shape[-2]
  tile = _tile(width) if dtype == "nf4" else width

  def of_column(column):
    made = qwix.quantize(column, dtype, tiled_axes={0: tile})
    return made.qvalue, made.scale

  columns = _by_column(of_column, kernel.ndim)
  values, scale = columns(kernel.astype(jnp.float32))
  if dtype == "nf4":
    values = values.astype(jnp.uint8)
    even, odd = (
      jax.lax.slice_in_dim(values, start, None, 2, -2) for start in (0, 1)
    )
    values = even | (odd << 4)
  return {"values": values, "scale": scale}


def dequantize(values: jax.Array, scale: jax.Array, dtype: str) -> jax.Array:
  """The inverse of `quantize`, but for rounding: float32[..., I, O]."""
  qwix = library()
  if dtype == "nf4":
    both = jnp.stack([values & 15, values >> 4], -2)
    *stack, rows, width_out = values.shape
    values = both.reshape(*stack, 2 * rows, width_out)

  def of_column(values, scale):
    return qwix.dequantize(qwix.QArray(values, scale, qtype=dtype))

  return _by_column(of_column, values.ndim)(values, scale)


def kernels(params: Any, dtype: str) -> Any:
  """A tree of parameters with every projection's kernel quantized.

  Args:
    params: nested dicts of arrays, or of their shapes.
    dtype: of DTYPES.

  Returns:
    The like, with a dict of two where a kernel was; see `quantize`.

  Raises:
    ValueError, ImportError: as `quantize`.
  """
  out = {}
  for name, value in params.items():
    if isinstance(value, dict):
      out[name] = kernels(value, dtype)
    elif name != "kernel":
      out[name] = value
    elif isinstance(value, jax.ShapeDtypeStruct):
      of_one = functools.partial(quantize, dtype=dtype)
      out[name] = jax.eval_shape(of_one, value)
    else:
      out[name] = quantize(value, dtype)
  return out


def replace(model: Any, params: Any) -> Any:
  """Puts quantized kernels into a model, in place.

  Args:
    model: of any family.
    params: nested dicts of arrays or shapes, some of them from `kernels`.

  Returns:
    The model.
  """
  for path, linear in _linears(model):
    arrays = params
    for part in (*path, "kernel"):
      arrays = arrays.get(part) if isinstance(arrays, dict) else None
    if isinstance(arrays, dict):
      axes = linear.kernel.get_metadata()["axes"]
      is_packed = arrays["values"].dtype == jnp.uint8
      linear.kernel = Kernel(arrays, axes, "nf4" if is_packed else "int8")
  return model


def restore(model: Any) -> Any:
  """Makes every quantized kernel a float32 parameter again, in place."""
  for _, linear in _linears(model):
    if isinstance(linear.kernel, Kernel):
      linear.kernel = linear.kernel.param()
  return model


def library() -> types.ModuleType:
  """qwix; ImportError says what to install."""
  try:
    import qwix
  except ImportError as e:
    raise ImportError(
      "weights of int8 or nf4 need qwix: pip install 'vpd_jax[qlora]'"
    ) from e
  return qwix


# The backward pass computes the float kernel a second time: kept, those of
# all layers would need the memory that quantizing saves. So would they if the
# compiler made them ahead of their turn, which the barriers forbid.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(dtype, x, values, scale):
  x, values, scale = jax.lax.optimization_barrier((x, values, scale))
  return jnp.dot(x, dequantize(values, scale, dtype).astype(x.dtype))


def _forward(dtype, x, values, scale):
  return _product(dtype, x, values, scale), (values, scale)


def _backward(dtype, kept, dy):
  dy, values, scale = jax.lax.optimization_barrier((dy, *kept))
  kernel = dequantize(values, scale, dtype).astype(dy.dtype)
  return jnp.einsum("...O,IO->...I", dy, kernel), None, None


_product.defvjp(_forward, _backward)


def _by_column(function: Callable[..., Any], ndim: int) -> Callable[..., Any]:
  """A function of [I] arrays for [..., I, O]: no axis is flattened.

  A flattened axis could not stay cut over a mesh.
  """
  function = jax.vmap(function, -1, -1)
  for _ in range(ndim - 2):
    function = jax.vmap(function)
  return function


def _tile(width: int) -> int:
  fitting = [t for t in range(MIN_TILE, MAX_TILE + 1, 2) if width % t == 0]
  if not fitting:
    raise ValueError(
      f"a projection of {width} inputs cannot be nf4: no even number from"
      f" {MIN_TILE} to {MAX_TILE} divides them. Use int8."
    )
  return fitting[-1]


def _linears(model: Any) -> list[tuple[tuple[Any, ...], layers.Linear]]:
  return [
    (path, node)
    for path, node in nnx.iter_graph(model)
    if isinstance(node, layers.Linear)
  ]
