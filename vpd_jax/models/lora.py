"""Low-rank updates on projections chosen by path; merge them back.

    model = lora.add(model, ["(encoder|decoder)/blocks/"], rank=8, alpha=8.0)

A `layers.Linear` with an update computes x W + (alpha / rank) x A B. B starts
at zero, so the model starts as it was. In a stack the update's arrays have
the leading axis "layers", as the kernel has.

Source: Hu et al., LoRA, arXiv:2106.09685. A is drawn, and the dropout is on
the update's input, as in Hugging Face's peft.
"""

import functools
import math
import re
import types
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers

# The settings of Hu et al., Visual Program Distillation, arXiv:2312.03052,
# appendix B.3: rank 8 on every projection of attention and MLP in encoder and
# decoder; then, for one task, in the encoder alone: rank 8 for PaLI-3, 4 for
# PaLI-X. The paper gives no alpha and no dropout: alpha = rank (a scale of 1)
# and none are our choice. That the image tower is frozen is not said either,
# but follows from where the updates are.
_GENERALIST = types.MappingProxyType(
  dict(patterns=("(encoder|decoder)/blocks/",), rank=8, alpha=8.0)
)
_SPECIALIST = types.MappingProxyType(
  dict(patterns=("encoder/blocks/",), rank=8, alpha=8.0)
)
PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "vpd_generalist": _GENERALIST,
    "vpd_specialist_pali3": _SPECIALIST,
    "vpd_specialist_palix": types.MappingProxyType(
      {**_SPECIALIST, "rank": 4, "alpha": 4.0}
    ),
  }
)
# Matches the names of all arrays of updates, and no others.
UPDATES = r"(.*/)?lora/[ab]$"


class LowRank(nnx.Module):
  """(alpha / rank) x A B, added to what a projection gives.

  Attributes:
    a: float32[..., I, R], uniform in +-1 / sqrt(I).
    b: float32[..., R, O], zero at first; the leading axes are the kernel's.
    scale: alpha / rank.
    dropout: share of the update's inputs that are dropped in training.
  """

  def __init__(
    self,
    kernel: nnx.Param,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    key: jax.Array,
  ):
    *stack, width_in, width_out = kernel.shape
    *stack_axes, axis_in, axis_out = kernel.get_metadata()["axes"]
    bound = width_in**-0.5
    a = jax.random.uniform(
      key, (*stack, width_in, rank), jnp.float32, -bound, bound
    )
    b = jnp.zeros((*stack, rank, width_out), jnp.float32)
    self.a = nnx.Param(a, axes=(*stack_axes, axis_in, None))
    self.b = nnx.Param(b, axes=(*stack_axes, None, axis_out))
    self.scale, self.dropout = alpha / rank, dropout

  def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """float[..., I] -> float[..., O]; no key, no dropout."""
    x = layers.dropout(x, self.dropout, key)
    y = layers.product(x, self.a[...].astype(x.dtype))
    return layers.product(y, self.b[...].astype(x.dtype)) * self.scale

  def is_folded(self, x: jax.Array, key: jax.Array | None) -> bool:
    """Whether `fold` serves this input, and costs less than a sum of products.

    Not in bfloat16, where a small update would be lost in the sum with the
    kernel; not with dropout, which is on the update's input alone.
    """
    if x.dtype != jnp.float32 or (key is not None and self.dropout):
      return False
    sides = self.a.shape[-2], self.b.shape[-1]
    return math.prod(x.shape[:-1]) >= min(sides)

  def fold(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x (W + s A B): as x W + s (x A) B, float[..., I] -> float[..., O].

    One product of all rows instead of three and a sum, and one instead of three
    for the gradient of x. W itself has a gradient only where it trains.
    """
    return _folded(self.scale, x, matrix, self.a[...], self.b[...])

  def product(self) -> jax.Array:
    """What it adds to the kernel: float32[..., I, O]."""
    return self.scale * jnp.einsum(
      "...IR,...RO->...IO", self.a[...], self.b[...]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _folded(scale, x, matrix, a, b):
  return jnp.dot(x, matrix + scale * jnp.dot(a, b))


def _folded_forward(scale, x, matrix, a, b):
  return _folded(scale, x, matrix, a, b), (x, matrix, a, b)


def _folded_backward(scale, kept, g):
  x, matrix, a, b = kept
  # Made again: kept, it would be a second copy of every layer's matrix.
  d_x, d_matrix = layers.product_backward(
    (x, matrix + scale * jnp.dot(a, b)), g
  )
  # The factors' gradients by way of R numbers a row, not by the matrix's.
  rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
  d_a = scale * layers.product_backward((rows[0], a), rows[1] @ b.T)[1]
  d_b = scale * layers.product_backward((rows[0] @ a, b), rows[1])[1]
  return d_x, d_matrix, d_a, d_b


_folded.defvjp(_folded_forward, _folded_backward)


def add(
  model: Any,
  patterns: Sequence[str],
  *,
  rank: int,
  alpha: float,
  dropout: float = 0.0,
  seed: int = 0,
) -> Any:
  """Puts an update on each projection whose path a pattern matches.

  Args:
    model: of any family; changed in place.
    patterns: regular expressions, matched from the start of paths such as
      "encoder/blocks/attention/query"; a whole stack is one path.
    rank: R.
    alpha: the update is scaled by alpha / rank.
    dropout: share of the update's inputs dropped, where the model's methods
      are given a key.
    seed: of A; a projection's draw does not depend on the others chosen.

  Returns:
    The model.

  Raises:
    ValueError: if a pattern matches no projection (lists those there are), a
      projection has an update already or a quantized kernel, or a number is
      out of range.
  """
  if isinstance(patterns, str):
    raise ValueError(f"lora.patterns={patterns!r} must be a list of patterns.")
  if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
    raise ValueError(
      f"lora.rank={rank}, alpha={alpha}, dropout={dropout}: expected a rank of"
      " at least 1, an alpha above 0, a dropout in [0, 1)."
    )
  linears = dict(_linears(model))
  for pattern in patterns:
    if not any(re.match(pattern, name) for name in linears):
      raise ValueError(
        f"lora pattern {pattern!r} matches no projection. There are:\n  "
        + "\n  ".join(linears)
      )
  for name, linear in linears.items():
    if not any(re.match(pattern, name) for pattern in patterns):
      continue
    if linear.lora is not None:
      raise ValueError(f"{name} has a low-rank update already; merge it first.")
    if not isinstance(linear.kernel, nnx.Param):
      raise ValueError(f"{name} is quantized; add updates first.")
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    linear.lora = LowRank(
      linear.kernel, rank=rank, alpha=alpha, dropout=dropout, key=key
    )
  return model


def merge(model: Any) -> Any:
  """Folds every update into its kernel, which becomes float32; in place.

  Raises:
    ValueError: if such a kernel is quantized.
  """
  for name, linear in _linears(model):
    if linear.lora is not None:
      if not isinstance(linear.kernel, nnx.Param):
        raise ValueError(
          f"{name} is quantized, and its update would be lost in rounding;"
          " make it float32 first: quantized.restore(model)."
        )
      kernel = linear.kernel[...].astype(jnp.float32)
      linear.kernel.set_value(kernel + linear.lora.product())
      linear.lora = nnx.data(None)
  return model


def options(section: Any) -> dict[str, Any]:
  """What a config says -> keyword arguments of `add`.

  Args:
    section: the name of a preset, or a mapping.

  Raises:
    KeyError: for an unknown preset; lists those that exist.
  """
  if not isinstance(section, str):
    return dict(section)
  if section not in PRESETS:
    raise KeyError(
      f"model.lora={section!r} is no preset; there are {sorted(PRESETS)}."
    )
  return dict(PRESETS[section])


def is_update(name: str) -> bool:
  """Whether an array of that name is an update's."""
  return re.match(UPDATES, name) is not None


def _linears(model: Any) -> list[tuple[str, layers.Linear]]:
  found = [
    ("/".join(map(str, path)), node)
    for path, node in nnx.iter_graph(model)
    if isinstance(node, layers.Linear)
  ]
  return sorted(found, key=lambda item: item[0])
