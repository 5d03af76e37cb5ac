"""Multi-head attention with or without a cache, masks, and T5's bias."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers

# Added to scores where the mask is False. Finite, so that a row that is
# masked everywhere (padding) gives uniform weights instead of NaN.
MASKED = -1e9


class Attention(nnx.Module):
  """Queries from one sequence, keys and values from the same or another.

  Args:
    width: of input and output.
    heads, head_width: number of heads and the width of each.
    use_bias: biases on the four projections (ViT: yes, T5: no).
    is_scaled: whether scores are divided by sqrt(head_width). T5 does not
      divide; its queries are initialised that much smaller instead.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    head_width: int,
    *,
    rngs: nnx.Rngs,
    use_bias: bool,
    is_scaled: bool,
  ):
    inner = heads * head_width
    into, out = ("embed", "heads"), ("heads", "embed")
    query_std = width**-0.5 if is_scaled else (width * head_width) ** -0.5
    self.query = layers.Linear(
      width, inner, into, rngs=rngs, use_bias=use_bias, std=query_std
    )
    self.key = layers.Linear(width, inner, into, rngs=rngs, use_bias=use_bias)
    self.value = layers.Linear(width, inner, into, rngs=rngs, use_bias=use_bias)
    self.out = layers.Linear(inner, width, out, rngs=rngs, use_bias=use_bias)
    self.heads, self.head_width = heads, head_width
    self.scale = head_width**-0.5 if is_scaled else 1.0

  def keys_values(self, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a sequence, float[B, S, N, H] each."""
    return self._split(self.key(x_BSD)), self._split(self.value(x_BSD))

  def __call__(
    self,
    x_BTD: jax.Array,
    keys_BSNH: jax.Array,
    values_BSNH: jax.Array,
    mask_BTS: jax.Array,
    bias_NTS: jax.Array | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      x_BTD: float[B, T, D], where queries come from.
      keys_BSNH, values_BSNH: float[B, S, N, H], from `keys_values`.
      mask_BTS: bool[B or 1, T or 1, S], True where a query may look.
      bias_NTS: float32[N, T, S], added to the scores.

    Returns:
      float[B, T, D].
    """
    q_BTNH = self._split(self.query(x_BTD)) * self.scale
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, keys_BSNH)
    scores_BNTS = scores_BNTS.astype(jnp.float32)
    if bias_NTS is not None:
      scores_BNTS = scores_BNTS + bias_NTS[None]
    scores_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS, MASKED)
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(x_BTD.dtype)
    y_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, values_BSNH)
    return self.out(y_BTNH.reshape(*x_BTD.shape[:2], -1))

  def _split(self, x_BTI: jax.Array) -> jax.Array:
    return x_BTI.reshape(*x_BTI.shape[:2], self.heads, self.head_width)


def causal_mask(length: int) -> jax.Array:
  """bool[1, T, T]: a position sees itself and what came before.

  For length 3, rows are queries:

      1 0 0
      1 1 0
      1 1 1
  """
  return jnp.tril(jnp.ones((1, length, length), bool))


class RelativeBias(nnx.Module):
  """T5's relative position bias, one table per stack.

  Distances are put into buckets: half of them one distance each, the other
  half growing logarithmically up to `max_distance`, beyond which all share
  the last. Source: Raffel et al., arXiv:1910.10683, section 2.1.
  """

  def __init__(
    self,
    heads: int,
    *,
    is_causal: bool,
    rngs: nnx.Rngs,
    buckets: int = 32,
    max_distance: int = 128,
  ):
    self.table = layers.param(
      rngs.params(), (buckets, heads), (None, "heads"), heads**-0.5
    )
    self.is_causal, self.buckets, self.max_distance = (
      is_causal,
      buckets,
      max_distance,
    )

  def __call__(self, query_positions: jax.Array, key_positions: jax.Array):
    """int32[T], int32[S] -> float32[N, T, S]."""
    distance_TS = key_positions[None, :] - query_positions[:, None]
    bucket_TS = relative_bucket(
      distance_TS,
      is_causal=self.is_causal,
      buckets=self.buckets,
      max_distance=self.max_distance,
    )
    one_hot = jax.nn.one_hot(bucket_TS, self.buckets, dtype=jnp.float32)
    return jnp.einsum("TSR,RN->NTS", one_hot, self.table[...])


def relative_bucket(
  distance: jax.Array, *, is_causal: bool, buckets: int, max_distance: int
) -> jax.Array:
  """Bucket of a signed distance (key position minus query position).

  Args:
    distance: int32[...].
    is_causal: if so, only the past has buckets, and the future shares 0; else
      the upper half of the buckets is for the future.
    buckets: how many in all.
    max_distance: from here on all distances share a bucket.

  Returns:
    int32[...], in 0..buckets-1.
  """
  offset = jnp.zeros_like(distance)
  if is_causal:
    past = jnp.maximum(-distance, 0)
  else:
    buckets //= 2
    offset = jnp.where(distance > 0, buckets, 0)
    past = jnp.abs(distance)
  exact = buckets // 2
  ratio = jnp.maximum(past, 1).astype(jnp.float32) / exact
  far = exact + (
    jnp.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
  ).astype(jnp.int32)
  far = jnp.minimum(far, buckets - 1)
  return offset + jnp.where(past < exact, past, far)
