"""Layers of the Gemmas: 1, 2 and 3 are options of one block.

Shared by the families that are built of them. Queries, keys and values can be
had apart, so that a family decides what it keeps and what it looks at:

    q, k, v = block.project(x_BTD, positions_BT, frequencies)
    x_BTD = block.finish(x_BTD, block.attend(q, k, v, mask_BTS))

Letters beyond the common legend: R rows, M adjacent rows that share an
example, R = M B.

Source: Gemma Team, arXiv:2403.08295, arXiv:2408.00118, arXiv:2503.19786.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpd_jax.models import attention, layers


class RMSNorm(nnx.Module):
  """Scales by the root mean square, then by one plus the weight."""

  def __init__(
    self, width: int, *, eps: float = 1e-6, axis: str | None = "embed"
  ):
    self.scale = layers.constant((width,), (axis,), 0.0)
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    """float[..., D] -> float[..., D]; all of it in float32."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
    scale = 1.0 + self.scale[...].astype(jnp.float32)
    scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
    return (x32 * inverse * scale).astype(x.dtype)


def frequencies(
  head_width: int,
  base: np.typing.ArrayLike,
  stretch: np.typing.ArrayLike = 1.0,
) -> np.ndarray:
  """Radians per position of each pair of a head's rotary embedding.

  Args:
    head_width: H.
    base: the slowest pair turns about this much slower than the first: a
      number, or one for each layer, float[layers].
    stretch: positions are divided by it ("linear scaling"); shaped as `base`.

  Returns:
    float32[H / 2], or [layers, H / 2].
  """
  exponents = np.arange(0, head_width, 2, dtype=np.float64) / head_width
  bases, stretches = np.broadcast_arrays(
    np.asarray(base, np.float64)[..., None],
    np.asarray(stretch, np.float64)[..., None],
  )
  return (bases**-exponents / stretches).astype(np.float32)


def rotate(
  x_BTNH: jax.Array, positions_BT: jax.Array, frequencies: jax.Array
) -> jax.Array:
  """Rotary position embedding: the two halves of a head are the pairs.

  Args:
    x_BTNH: float[B, T, N, H], queries or keys.
    positions_BT: int32[B or 1, T].
    frequencies: float32[H / 2].

  Returns:
    float[B, T, N, H].

  Source: Su et al., RoFormer, arXiv:2104.09864; halves as in GPT-NeoX.
  """
  angles = positions_BT[..., None].astype(jnp.float32) * frequencies[None, None]
  # Angles are float32 at any dtype: bfloat16 cannot count to 300.
  cos, sin = (
    f(angles)[:, :, None].astype(x_BTNH.dtype) for f in (jnp.cos, jnp.sin)
  )
  first, second = jnp.split(x_BTNH, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


def window(
  query_positions_BT: jax.Array,
  key_positions_BS: jax.Array,
  *,
  left: int,
  right: int,
) -> jax.Array:
  """Which keys are near a query: bool[B, T, S].

  For left=2, right=1 and positions 0 to 3, rows are queries:

      1 0 0 0
      1 1 0 0
      0 1 1 0
      0 0 1 1

  Args:
    query_positions_BT: int32[B or 1, T].
    key_positions_BS: int32[B or 1, S].
    left: a key at most left - 1 before the query is near; 1: itself.
    right: a key at most right - 1 behind it is.
  """
  behind_BTS = query_positions_BT[:, :, None] - key_positions_BS[:, None, :]
  return (behind_BTS < left) & (-behind_BTS < right)


def attend_merged(
  q_RTNH: jax.Array,
  own: tuple[jax.Array, jax.Array],
  own_mask_RTS: jax.Array,
  shared: tuple[jax.Array, jax.Array],
  shared_mask_BTS: jax.Array,
  softcap: float | None = None,
) -> jax.Array:
  """One softmax over a row's own keys and those that its example shares.

  Keys of an example are read once for all of its rows and never repeated.

  Args:
    q_RTNH: float[R, T, N, H], scaled; adjacent rows share an example.
    own: keys and values of each row, float[R, S, K, H] each.
    own_mask_RTS: bool[R or 1, T or 1, S], True where a query may look.
    shared: of each example, float[B, S', K, H] each.
    shared_mask_BTS: bool[B or 1, T or 1, S'].
    softcap: as in `attention.attend`.

  Returns:
    float[R, T, N, H]. The softmax is in float32.
  """
  rows, length, _, head_width = q_RTNH.shape
  batch, _, groups, _ = shared[0].shape
  q = q_RTNH.reshape(batch, -1, length, groups, *_pair(q_RTNH, groups))
  own_k, own_v = (x.reshape(batch, -1, *x.shape[1:]) for x in own)
  if own_mask_RTS.shape[0] == rows:
    own_mask = own_mask_RTS.reshape(batch, -1, *own_mask_RTS.shape[1:])
  else:
    own_mask = own_mask_RTS[None]
  options = {"preferred_element_type": jnp.float32}
  scores = [
    jnp.einsum("BMTKGH,BMSKH->BMKGTS", q, own_k, **options),
    jnp.einsum("BMTKGH,BSKH->BMKGTS", q, shared[0], **options),
  ]
  masks = [own_mask[:, :, None, None], shared_mask_BTS[:, None, None, None]]
  if softcap is not None:
    scores = [softcap * jnp.tanh(s / softcap) for s in scores]
  scores = [
    jnp.where(mask, s, attention.MASKED)
    for s, mask in zip(scores, masks, strict=True)
  ]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  own_w, shared_w = jnp.split(
    weights.astype(own_v.dtype), [own_k.shape[2]], axis=-1
  )
  y = jnp.einsum("BMKGTS,BMSKH->BMTKGH", own_w, own_v)
  y = y + jnp.einsum("BMKGTS,BSKH->BMTKGH", shared_w, shared[1])
  return y.reshape(rows, length, -1, head_width)


def _pair(q_RTNH: jax.Array, groups: int) -> tuple[int, int]:
  """(G, H): query heads of each key head, and their width."""
  return q_RTNH.shape[2] // groups, q_RTNH.shape[3]


class GroupedAttention(nnx.Module):
  """Projections of attention where query heads share key heads; no biases.

  Args:
    width: of input and output.
    heads, kv_heads: query heads, and key/value heads, which divide them.
    head_width: of each.
    query_scale: scores are multiplied by it.
    has_qk_norm: RMS norms of each head's queries and keys, before they turn.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    *,
    query_scale: float,
    has_qk_norm: bool,
    rngs: layers.Keys,
  ):
    if heads % kv_heads:
      raise ValueError(f"heads={heads} is not a multiple of {kv_heads=}.")
    into, out = ("embed", "heads"), ("heads", "embed")
    self.query = layers.Linear(width, heads * head_width, into, rngs=rngs)
    self.key = layers.Linear(width, kv_heads * head_width, into, rngs=rngs)
    self.value = layers.Linear(width, kv_heads * head_width, into, rngs=rngs)
    self.out = layers.Linear(heads * head_width, width, out, rngs=rngs)
    self.query_norm = nnx.data(_head_norm(head_width, has_qk_norm))
    self.key_norm = nnx.data(_head_norm(head_width, has_qk_norm))
    self.head_width, self.query_scale = head_width, query_scale

  def queries(
    self,
    x_BTD: jax.Array,
    positions_BT: jax.Array,
    frequencies: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """float[B, T, D] -> float[B, T, N, H]: normed, turned and scaled.

    `positions_BT` and `frequencies` are as in `rotate`; `key` for dropout.
    """
    q_BTNH = self._split(self.query(x_BTD, key))
    if self.query_norm is not None:
      q_BTNH = self.query_norm(q_BTNH)
    return rotate(q_BTNH, positions_BT, frequencies) * self.query_scale

  def keys_values(
    self,
    x_BSD: jax.Array,
    positions_BS: jax.Array | None,
    frequencies: jax.Array | None,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """float[B, S, D] -> float[B, S, K, H] twice: keys normed and turned.

    Keys do not turn where `positions_BS` is None.
    """
    key_key, value_key = layers.split(key, 2)
    k_BSKH = self._split(self.key(x_BSD, key_key))
    if self.key_norm is not None:
      k_BSKH = self.key_norm(k_BSKH)
    if positions_BS is not None:
      assert frequencies is not None, "positions need frequencies"
      k_BSKH = rotate(k_BSKH, positions_BS, frequencies)
    return k_BSKH, self._split(self.value(x_BSD, value_key))

  def join(self, y_BTNH: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """float[B, T, N, H] -> float[B, T, D]: the projection out."""
    return self.out(y_BTNH.reshape(*y_BTNH.shape[:2], -1), key)

  def _split(self, x_BTI: jax.Array) -> jax.Array:
    return x_BTI.reshape(*x_BTI.shape[:2], -1, self.head_width)


class Block(nnx.Module):
  """Attention, then a gated MLP, each behind a norm and maybe before one.

  Args:
    width, heads, kv_heads, head_width, query_scale, has_qk_norm: as in
      `GroupedAttention`. Gemma 3 has the norms.
    mlp_width: of the MLP.
    has_post_norms: what attention and MLP give is normed too (Gemma 2, 3).
    attention_softcap: as in `attention.attend`; Gemma 2 has 50.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    *,
    query_scale: float,
    has_qk_norm: bool = False,
    has_post_norms: bool = False,
    attention_softcap: float | None = None,
    rngs: layers.Keys,
  ):
    self.norm_attention = RMSNorm(width)
    self.attention = GroupedAttention(
      width,
      heads,
      kv_heads,
      head_width,
      query_scale=query_scale,
      has_qk_norm=has_qk_norm,
      rngs=rngs,
    )
    self.norm_mlp = RMSNorm(width)
    self.mlp = layers.GatedMLP(width, mlp_width, activation="gelu", rngs=rngs)
    post = [RMSNorm(width) if has_post_norms else None for _ in range(2)]
    self.norm_attention_out, self.norm_mlp_out = map(nnx.data, post)
    self.softcap = attention_softcap

  def project(
    self,
    x_BTD: jax.Array,
    positions_BT: jax.Array,
    frequencies: jax.Array,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of the normed input.

    Args:
      x_BTD: float[B, T, D].
      positions_BT: int32[B or 1, T].
      frequencies: float32[H / 2].
      key: for dropout; None for none.

    Returns:
      float[B, T, N, H], float[B, T, K, H], float[B, T, K, H].
    """
    query_key, kv_key = layers.split(key, 2)
    h_BTD = self.norm_attention(x_BTD)
    turn = positions_BT, frequencies
    q_BTNH = self.attention.queries(h_BTD, *turn, query_key)
    return q_BTNH, *self.attention.keys_values(h_BTD, *turn, kv_key)

  def attend(
    self,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array | None,
  ) -> jax.Array:
    """`attention.attend` with this block's cap: float[B, T, N, H]."""
    return attention.attend(
      q_BTNH, k_BSKH, v_BSKH, mask_BTS, softcap=self.softcap
    )

  def finish(
    self, x_BTD: jax.Array, y_BTNH: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """What comes after attention, the MLP too.

    Args:
      x_BTD: float[B, T, D], the block's input.
      y_BTNH: float[B, T, N, H], what attention gave.
      key: for dropout; None for none.

    Returns:
      float[B, T, D], the block's output.
    """
    out_key, mlp_key = layers.split(key, 2)
    y_BTD = self.attention.join(y_BTNH, out_key)
    if self.norm_attention_out is not None:
      y_BTD = self.norm_attention_out(y_BTD)
    x_BTD = x_BTD + y_BTD
    y_BTD = self.mlp(self.norm_mlp(x_BTD), mlp_key)
    if self.norm_mlp_out is not None:
      y_BTD = self.norm_mlp_out(y_BTD)
    return x_BTD + y_BTD


def embed(
  embedding: layers.Embedding, tokens: jax.Array, dtype=jnp.float32
) -> jax.Array:
  """int32[...] -> float[..., D], times sqrt(D).

  The factor is rounded to `dtype`, as the weights were trained.
  """
  x = embedding(tokens, dtype)
  return x * jnp.asarray(x.shape[-1] ** 0.5, dtype)


def _head_norm(head_width: int, is_there: bool) -> RMSNorm | None:
  return RMSNorm(head_width, axis=None) if is_there else None
