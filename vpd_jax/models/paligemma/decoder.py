"""PaliGemma's stack: a prefix that sees all of itself, then a causal suffix.

Nothing in a prefix depends on the suffix behind it, so both run side by side:
prefixes once per example, suffixes once per row. With a prefix of 3 and a
suffix of 3 tokens, of which the second is padding of the prefix:

    1 0 1 0 0 0
    . . . . . .    padding: nobody looks
    1 0 1 0 0 0
    1 0 1 1 0 0
    1 0 1 1 1 0
    1 0 1 1 1 1

Positions count real tokens, so padding moves nothing. Where layers have a
window, every other one, from the first on, shows a suffix token only the
nearest; prefix tokens see their whole prefix in all of them.

Letters beyond the common legend: R rows, R = M B; adjacent rows share an
example.

Source: Beyer et al., PaliGemma, arXiv:2407.07726, section 3; the Gemmas'
reports, arXiv:2403.08295 and arXiv:2408.00118. What a window means to a prefix
is in none of them: it is what transformers computes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpd_jax.models import gemma, layers, stack

WAVELENGTH = 10_000.0  # Base of the rotary frequencies.


class Context(NamedTuple):
  """What decoding holds of an example.

  Attributes:
    keys, values: float[layers, B, S, K, H], of the prefix.
    mask_BS: bool[B, S], True where the prefix has a real token.
    last_BD: float[B, D], the hidden state of its last real token.
  """

  keys: jax.Array
  values: jax.Array
  mask_BS: jax.Array
  last_BD: jax.Array


class Masks(NamedTuple):
  """Where suffix tokens may look, and which positions they have.

  Attributes:
    positions_RT: int32[R, T].
    own: bool[1, T, S] for layers without and with a window: at the suffix.
    prefix: bool[B, 1 or T, S'], the same of the prefix.
  """

  positions_RT: jax.Array
  own: tuple[jax.Array, jax.Array]
  prefix: tuple[jax.Array, jax.Array]


class Decoder(nnx.Module):
  """A Gemma 1 or 2 over embedded prefixes and suffixes.

  Args:
    width, heads, kv_heads, head_width, mlp_width, query_scale,
      has_post_norms, attention_softcap: as in `gemma.Block`.
    depth: number of blocks.
    window: how many tokens, itself included, a suffix token sees in every
      other layer; None: all, in all layers.
    is_scanned, remat: how blocks are run; see `stack.run`.
  """

  def __init__(
    self,
    width: int,
    depth: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    *,
    query_scale: float,
    has_post_norms: bool,
    attention_softcap: float | None,
    window: int | None,
    is_scanned: bool,
    remat: str,
    rngs: layers.Keys,
  ):
    self.blocks = stack.make(
      lambda rngs: gemma.Block(
        width,
        heads,
        kv_heads,
        head_width,
        mlp_width,
        query_scale=query_scale,
        has_post_norms=has_post_norms,
        attention_softcap=attention_softcap,
        rngs=rngs,
      ),
      depth,
      rngs,
    )
    self.norm = gemma.RMSNorm(width)
    self.depth, self.kv_heads, self.head_width = depth, kv_heads, head_width
    self.window, self.is_scanned, self.remat = window, is_scanned, remat

  def __call__(
    self,
    prefix_BSD: jax.Array,
    mask_BS: jax.Array,
    suffix_RTD: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Hidden states that predict each suffix token from what precedes it.

    Args:
      prefix_BSD: float[B, S, D], embedded.
      mask_BS: bool[B, S], True at a real token; each row has one.
      suffix_RTD: float[R, T, D], embedded.
      key: for dropout; None for none.

    Returns:
      float[R, T, D]: first that of the last real prefix token, then those of
      the suffix but for its last token, which predicts nothing.
    """
    rows, length, _ = suffix_RTD.shape
    masks = self._masks(mask_BS, jnp.arange(length), jnp.arange(length), rows)

    def body(block, carry, is_local):
      prefix_BSD, suffix_RTD, key = carry
      key, prefix_key, suffix_key = layers.split(key, 3)
      prefix_BSD, shared = self._prefix(block, prefix_BSD, mask_BS, prefix_key)
      project_key, finish_key = layers.split(suffix_key, 2)
      q, *own = block.project(
        suffix_RTD, masks.positions_RT, self._frequencies(), project_key
      )
      y = self._attend(block, q, (own[0], own[1]), shared, masks, is_local)
      suffix_RTD = block.finish(suffix_RTD, y, finish_key)
      return (prefix_BSD, suffix_RTD, key), None

    (prefix_BSD, suffix_RTD, _), _ = stack.run(
      self.blocks,
      body,
      (prefix_BSD, suffix_RTD, key),
      self._is_local(),
      is_scanned=self.is_scanned,
      remat=self.remat,
    )
    last_BD = _last(prefix_BSD, mask_BS)
    last_R1D = jnp.repeat(last_BD, rows // len(last_BD), axis=0)[:, None]
    return self.norm(jnp.concatenate([last_R1D, suffix_RTD[:, :-1]], axis=1))

  def context(self, prefix_BSD: jax.Array, mask_BS: jax.Array) -> Context:
    """Keys and values of a prefix for every block, and its last state."""

    def body(block, x_BSD, _):
      return self._prefix(block, x_BSD, mask_BS, None)

    x_BSD, (keys, values) = stack.run(
      self.blocks, body, prefix_BSD, is_scanned=self.is_scanned
    )
    return Context(keys, values, mask_BS, self.norm(_last(x_BSD, mask_BS)))

  def init_cache(
    self, rows: int, length: int, dtype: jax.typing.DTypeLike
  ) -> tuple[jax.Array, jax.Array]:
    """Empty keys and values, float[layers, R, length, K, H] each."""
    shape = (self.depth, rows, length, self.kv_heads, self.head_width)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

  def extend(
    self,
    x_R1D: jax.Array,
    slot: jax.Array,
    context: Context,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Runs the stack over one more suffix token of each row.

    Args:
      x_R1D: float[R, 1, D], the token's embedding.
      slot: int32[], its place in the suffix.
      context: from `context`.
      cache: from `init_cache` or the last call.

    Returns:
      (float[R, 1, D], the cache with this token written).
    """
    slots = jnp.arange(cache[0].shape[2])
    masks = self._masks(context.mask_BS, slot[None], slots, len(x_R1D))

    def body(block, x_R1D, layer):
      is_local, shared, own = layer
      q, *new = block.project(x_R1D, masks.positions_RT, self._frequencies())
      own = tuple(
        jax.lax.dynamic_update_slice_in_dim(old, x, slot, axis=1)
        for old, x in zip(own, new, strict=True)
      )
      y = self._attend(block, q, own, shared, masks, is_local)
      return block.finish(x_R1D, y), own

    layers_ = (self._is_local(), (context.keys, context.values), cache)
    x_R1D, cache = stack.run(
      self.blocks, body, x_R1D, layers_, is_scanned=self.is_scanned
    )
    return self.norm(x_R1D), cache

  def _prefix(self, block, x_BSD, mask_BS, key):
    """(a block's output float[B, S, D], its keys and values)."""
    project_key, finish_key = layers.split(key, 2)
    q, k, v = block.project(
      x_BSD, _positions(mask_BS), self._frequencies(), project_key
    )
    y = block.attend(q, k, v, mask_BS[:, None, :])
    return block.finish(x_BSD, y, finish_key), (k, v)

  def _attend(self, block, q, own, shared, masks, is_local) -> jax.Array:
    """float[R, T, N, H]: what suffix queries find in suffix and prefix."""
    own_mask, prefix_mask = masks.own[0], masks.prefix[0]
    if self.window is not None:
      own_mask = jnp.where(is_local, masks.own[1], own_mask)
      prefix_mask = jnp.where(is_local, masks.prefix[1], prefix_mask)
    return gemma.attend_merged(
      q, own, own_mask, shared, prefix_mask, block.softcap
    )

  def _masks(
    self, mask_BS: jax.Array, slots_T: jax.Array, key_slots_S, rows: int
  ) -> Masks:
    """For queries in some slots of a suffix and keys in others."""
    # A suffix begins where its prefix ends, in every row of an example.
    count_B1 = jnp.sum(mask_BS, axis=1, keepdims=True, dtype=jnp.int32)
    positions_BT = count_B1 + slots_T[None]
    positions_RT = jnp.repeat(positions_BT, rows // len(mask_BS), axis=0)
    causal_1TS = (key_slots_S[None] <= slots_T[:, None])[None]
    real_B1S = mask_BS[:, None, :]
    if self.window is None:
      near_1TS, near_BTS = causal_1TS, real_B1S
    else:
      # Keys ahead of a query are for the other masks to hide.
      reach = {"left": self.window, "right": np.iinfo(np.int32).max}
      near_1TS = gemma.window(slots_T[None], key_slots_S[None], **reach)
      near_BTS = gemma.window(positions_BT, _positions(mask_BS), **reach)
    return Masks(
      positions_RT,
      (causal_1TS, causal_1TS & near_1TS),
      (real_B1S, real_B1S & near_BTS),
    )

  def _is_local(self) -> jax.Array:
    """bool[layers]: which have the window, if there is one."""
    return jnp.arange(self.depth) % 2 == 0

  def _frequencies(self) -> jax.Array:
    return jnp.asarray(gemma.frequencies(self.head_width, WAVELENGTH))


def _positions(mask_BS: jax.Array) -> jax.Array:
  """int32[B, S]: how many real tokens come before each."""
  return jnp.cumsum(mask_BS, axis=1, dtype=jnp.int32) - 1


def _last(x_BSD: jax.Array, mask_BS: jax.Array) -> jax.Array:
  """float[B, D]: what the last real token has."""
  # The first maximum: padding behind it counts no further.
  index_B = jnp.argmax(_positions(mask_BS), axis=1)
  return jnp.take_along_axis(x_BSD, index_B[:, None, None], axis=1)[:, 0]
