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
    use_bias: biases on the three projections in (ViT: yes, T5: no).
    use_out_bias: on the projection out; as `use_bias` where not said.
    is_scaled: whether scores are divided by sqrt(head_width). T5 does not
      divide; its queries are initialised that much smaller instead.
    has_qk_norm: layer norms, without bias, on each head's queries and keys.
    width_kv: of the sequence that keys and values come from, if another.

  Source of the norms: Dehghani et al., Scaling Vision Transformers to 22
  Billion Parameters, arXiv:2302.05442, section 2.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    head_width: int,
    *,
    rngs: layers.Keys,
    use_bias: bool,
    is_scaled: bool,
    use_out_bias: bool | None = None,
    has_qk_norm: bool = False,
    width_kv: int | None = None,
  ):
    inner = heads * head_width
    into, out = ("embed", "heads"), ("heads", "embed")
    query_std = width**-0.5 if is_scaled else (width * head_width) ** -0.5
    options = {"rngs": rngs, "use_bias": use_bias}
    self.query = layers.Linear(width, inner, into, std=query_std, **options)
    width_kv = width if width_kv is None else width_kv
    self.key = layers.Linear(width_kv, inner, into, **options)
    self.value = layers.Linear(width_kv, inner, into, **options)
    if use_out_bias is not None:
      options["use_bias"] = use_out_bias
    self.out = layers.Linear(inner, width, out, **options)
    self.query_norm = nnx.data(_head_norm(head_width, has_qk_norm))
    self.key_norm = nnx.data(_head_norm(head_width, has_qk_norm))
    self.heads, self.head_width = heads, head_width
    self.scale = head_width**-0.5 if is_scaled else 1.0

  def keys_values(
    self, x_BSD: jax.Array, key: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a sequence, float[B, S, N, H] each."""
    key_key, value_key = layers.split(key, 2)
    keys_BSNH = self._split(self.key(x_BSD, key_key))
    if self.key_norm is not None:
      keys_BSNH = self.key_norm(keys_BSNH)
    return keys_BSNH, self._split(self.value(x_BSD, value_key))

  def __call__(
    self,
    x_BTD: jax.Array,
    keys_BSNH: jax.Array,
    values_BSNH: jax.Array,
    mask_BTS: jax.Array | None,
    bias_NTS: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    is_held: bool = False,
  ) -> jax.Array:
    """Attends.

    Args:
      x_BTD: float[B, T, D], where queries come from.
      keys_BSNH, values_BSNH: float[B, S, N, H], from `keys_values`.
      mask_BTS: bool[B or 1, T or 1, S], True where a query may look; None:
        everywhere.
      bias_NTS: float32[N, T, S], added to the scores.
      key: for dropout; None for none.
      is_held: keys and values are as `held` gives them.

    Returns:
      float[B, T, D].
    """
    query_key, out_key = layers.split(key, 2)
    q_BTNH = self._split(self.query(x_BTD, query_key))
    if self.query_norm is not None:
      q_BTNH = self.query_norm(q_BTNH)
    y_BTNH = attend(
      q_BTNH * self.scale,
      keys_BSNH,
      values_BSNH,
      mask_BTS,
      bias_NTS,
      is_held=is_held,
    )
    return self.out(y_BTNH.reshape(*x_BTD.shape[:2], -1), out_key)

  def across(
    self,
    x_BTD: jax.Array,
    other_BSE: jax.Array,
    mask_BTS: jax.Array | None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Attends to another sequence, of which nothing is kept.

    As `keys_values` and a call, which it is where there are many queries. For a
    few, fewer than a head is wide, keys and values of all of y, the other
    sequence, cost more than these, with a head's columns of the matrices:

      (x W_Q) (y W_K)^T       = ((x W_Q) W_K^T) y^T
      softmax(...) (y W_V)    = (softmax(...) y) W_V

    DeepSeek-AI, DeepSeek-V2, arXiv:2405.04434, section 2.1.2, decode so.

    Args:
      x_BTD: float[B, T, D], where queries come from.
      other_BSE: float[B, S, E], where keys and values come from.
      mask_BTS, key: as in a call.

    Returns:
      float[B, T, D].
    """
    kv_key, own_key = layers.split(key, 2)
    queries, width = x_BTD.shape[1], other_BSE.shape[-1]
    if not self._can_turn(key) or not is_turned(
      queries, other_BSE.shape[1], width, self.head_width
    ):
      keys_values = self.keys_values(other_BSE, kv_key)
      return self(x_BTD, *keys_values, mask_BTS, key=own_key)
    query_key, out_key = layers.split(own_key, 2)
    q_BTNH = self._split(self.query(x_BTD, query_key)) * self.scale
    q_BTNE = self.key.by_group(q_BTNH, self.heads, is_back=True)
    other_BS1E = other_BSE[:, :, None]
    y_BTNE = attend(q_BTNE, other_BS1E, other_BS1E, mask_BTS)
    y_BTNH = self.value.by_group(y_BTNE, self.heads)
    return self.out(y_BTNH.reshape(*x_BTD.shape[:2], -1), out_key)

  def _can_turn(self, key: jax.Array | None) -> bool:
    """Whether keys and values are products, with nothing before or after."""
    return self.query_norm is None and all(
      linear.bias is None
      # A quantized one would be kept, made float, for the gradient.
      and isinstance(linear.kernel, nnx.Param)
      and (key is None or linear.lora is None or not linear.lora.dropout)
      for linear in (self.key, self.value)
    )

  def _split(self, x_BTI: jax.Array) -> jax.Array:
    return x_BTI.reshape(*x_BTI.shape[:2], self.heads, self.head_width)


def is_turned(queries: int, keys: int, width: int, head_width: int) -> bool:
  """Whether `Attention.across` makes no keys: by FLOPs, for T below about H.

  Args:
    queries, keys: T, S.
    width: E, of the sequence that keys come from.
    head_width: H.
  """
  # For each head and 4 FLOPs: matrices, then scores and sums.
  made = keys * width * head_width + queries * keys * head_width
  turned = queries * width * head_width + queries * keys * width
  return turned < made


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_BTS: jax.Array | None,
  bias_NTS: jax.Array | None = None,
  softcap: float | None = None,
  *,
  is_held: bool = False,
) -> jax.Array:
  """Scores, softmax and sum: what every attention here ends in.

  Args:
    q_BTNH: float[B, T, N, H], scaled already where the model scales.
    k_BSKH, v_BSKH: float[B, S, K, H]; N a multiple of K, adjacent query heads
      share one.
    mask_BTS: bool[B or 1, T or 1, S], True where a query may look; None:
      everywhere. A query that may look nowhere gives a mean of all values.
    bias_NTS: float32[N, T, S], added to the scores.
    softcap: scores become softcap * tanh(scores / softcap) before mask and
      bias; None: they stay.
    is_held: keys and values are as `held` gives them, [B, K, S, H].

  Returns:
    float[B, T, N, H]. The softmax is in float32.
  """
  batch, length, heads, head_width = q_BTNH.shape
  if not is_held:
    k_BSKH, v_BSKH = held((k_BSKH, v_BSKH))
  # Heads first and then rows by columns, as they are written here: on CPU,
  # products that come out transposed take up to twice as long.
  k_BKSH, v_BKSH, q_BNTH = k_BSKH, v_BSKH, q_BTNH.swapaxes(1, 2)
  groups = k_BKSH.shape[1]
  options = {"preferred_element_type": jnp.float32}
  if groups == heads:
    scores = jnp.einsum("BNTH,BNSH->BNTS", q_BNTH, k_BKSH, **options)
  else:
    q_BKGTH = q_BNTH.reshape(batch, groups, -1, length, head_width)
    scores = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, **options)
    scores = scores.reshape(batch, heads, length, -1)
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  if bias_NTS is not None:
    scores = _add_bias(scores, bias_NTS)
  if mask_BTS is not None:
    scores = jnp.where(mask_BTS[:, None], scores, MASKED)
  # Softmax with its division last: of what is summed, [T, H], not of the
  # weights, [T, S], which are then passed over once less, and twice less in the
  # gradient.
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total_BNT1 = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights.astype(v_BKSH.dtype)
  if groups == heads:
    y_BNTH = jnp.einsum("BNTS,BNSH->BNTH", weights, v_BKSH)
  else:
    weights = weights.reshape(batch, groups, -1, length, weights.shape[-1])
    y_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", weights, v_BKSH)
    y_BNTH = y_BKGTH.reshape(q_BNTH.shape)
  y_BNTH = (y_BNTH.astype(jnp.float32) / total_BNT1).astype(v_BKSH.dtype)
  return y_BNTH.swapaxes(1, 2)


@jax.custom_vjp
def _add_bias(scores_BNTS: jax.Array, bias_NTS: jax.Array) -> jax.Array:
  """Both float32; the gradient of the bias sums over the batch."""
  return scores_BNTS + bias_NTS[None]


def _add_bias_forward(scores_BNTS, bias_NTS):
  return _add_bias(scores_BNTS, bias_NTS), None


def _add_bias_backward(_, grad_BNTS):
  def product(grad_BNTS):
    ones_B = jnp.ones(len(grad_BNTS), grad_BNTS.dtype)
    return jnp.einsum("B,BNTS->NTS", ones_B, grad_BNTS)

  # On CPU XLA's sum over a first axis is far slower than memory is.
  bias_grad_NTS = jax.lax.platform_dependent(
    grad_BNTS, cpu=product, default=lambda grad_BNTS: jnp.sum(grad_BNTS, axis=0)
  )
  return grad_BNTS, bias_grad_NTS


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def held(
  keys_values: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Keys and values float[B, S, K, H] as decoding holds them: [B, K, S, H].

  So the product with one query reads them as they lie; in the other order they
  are transposed in memory at every token.
  """
  keys, values = keys_values
  return keys.swapaxes(1, 2), values.swapaxes(1, 2)


def gathered(
  keys_values: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Keys and values float[B, S, K, H], all of S on each device that has rows.

  Where a sequence is cut over devices, each has some queries and all keys, so
  that scores are cut along the queries and a softmax is within a device.
  """
  keys, values = keys_values
  axes = ("batch", None, "heads")
  return layers.constrain(keys, *axes), layers.constrain(values, *axes)


def _head_norm(head_width: int, is_there: bool) -> layers.LayerNorm | None:
  if not is_there:
    return None
  return layers.LayerNorm(head_width, use_bias=False, axis=None)


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
    rngs: layers.Keys,
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

  def __call__(
    self, queries: int, keys: int, first_query: jax.typing.ArrayLike = 0
  ) -> jax.Array:
    """Biases of adjacent queries on keys that start at position 0.

    Args:
      queries, keys: T, S, how many there are.
      first_query: int32[], the position of the first query.

    Returns:
      float32[N, T, S]. All that is computed before it has T + S numbers for
      each head: a row is that of the query after it, moved by one.
    """
    # Key 0 seen from the last query comes first.
    last_query = first_query + queries - 1
    bucket_L = relative_bucket(
      jnp.arange(queries + keys - 1) - last_query,
      is_causal=self.is_causal,
      buckets=self.buckets,
      max_distance=self.max_distance,
    )
    one_hot = jax.nn.one_hot(bucket_L, self.buckets, dtype=jnp.float32)
    bias_NL = jnp.einsum("LR,RN->NL", one_hot, self.table[...])
    if queries == 1:
      return bias_NL[:, None]
    return jax.vmap(
      lambda start: jax.lax.dynamic_slice_in_dim(bias_NL, start, keys, axis=1),
      out_axes=1,
    )(jnp.arange(queries - 1, -1, -1))


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
