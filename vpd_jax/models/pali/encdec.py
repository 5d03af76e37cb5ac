"""T5-style encoder and decoder stacks: RMS norm, no bias, any T5's MLP.

One table of relative position biases per stack, shared by all of its blocks;
cross-attention has none. Source: Raffel et al., arXiv:1910.10683.
"""

import types
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import attention, layers, stack

# The MLP of each member of the family: (is it gated, its activation).
MLPS: Mapping[str, tuple[bool, str]] = types.MappingProxyType(
  {
    "relu": (False, "relu"),  # T5 1.0
    "gated_gelu": (True, "gelu"),  # T5 v1.1, Flan-T5, mT5
    "gated_silu": (True, "silu"),  # UL2
  }
)


class Encoder(nnx.Module):
  """Bidirectional stack over image tokens and prompt tokens together."""

  def __init__(
    self,
    width: int,
    depth: int,
    heads: int,
    head_width: int,
    mlp_width: int,
    *,
    mlp: str,
    is_scaled: bool,
    is_scanned: bool,
    remat: str,
    rngs: layers.Keys,
    dropout: float = 0.0,
  ):
    block = (width, heads, head_width, mlp_width, mlp, is_scaled, dropout)
    self.bias = attention.RelativeBias(heads, is_causal=False, rngs=rngs)
    self.blocks = stack.make(
      lambda rngs: EncoderBlock(*block, rngs=rngs), depth, rngs
    )
    self.norm = layers.RMSNorm(width)
    self.is_scanned, self.remat = is_scanned, remat

  def __call__(
    self, x_BSD: jax.Array, mask_BS: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """float[B, S, D], bool[B, S] (True: a real token) -> float[B, S, D]."""
    bias_NSS = self.bias(x_BSD.shape[1], x_BSD.shape[1])
    bias_NSS = layers.constrain(bias_NSS, "heads", "tokens")

    def body(block, carry, _):
      x_BSD, key = carry
      key, block_key = layers.split(key, 2)
      x_BSD = layers.constrain(x_BSD, "batch", "tokens")
      x_BSD = block(x_BSD, mask_BS[:, None, :], bias_NSS, block_key)
      return (x_BSD, key), None

    options = {"is_scanned": self.is_scanned, "remat": self.remat}
    (x_BSD, _), _ = stack.run(self.blocks, body, (x_BSD, key), **options)
    return self.norm(x_BSD)


class EncoderBlock(nnx.Module):
  """Self-attention, then an MLP, each behind an RMS norm."""

  def __init__(
    self, width, heads, head_width, mlp_width, mlp, is_scaled, dropout, *, rngs
  ):
    self.dropout = dropout
    self.norm_attention = layers.RMSNorm(width)
    self.attention = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_mlp = layers.RMSNorm(width)
    self.mlp = _mlp(width, mlp_width, mlp, rngs)

  def __call__(self, x_BSD, mask_B1S, bias_NSS, key) -> jax.Array:
    """float[B, S, D] -> float[B, S, D]."""
    kv_key, attention_key, mlp_key, *drop_keys = layers.split(key, 5)
    h_BSD = self.norm_attention(x_BSD)
    keys_values = attention.gathered(self.attention.keys_values(h_BSD, kv_key))
    y_BSD = self.attention(
      h_BSD, *keys_values, mask_B1S, bias_NSS, attention_key
    )
    x_BSD = x_BSD + layers.dropout(y_BSD, self.dropout, drop_keys[0])
    y_BSD = self.mlp(self.norm_mlp(x_BSD), mlp_key)
    return x_BSD + layers.dropout(y_BSD, self.dropout, drop_keys[1])


class Context(NamedTuple):
  """What decoding holds of an example: cross-attention's keys and values.

  Attributes:
    keys, values: float[layers, B, N, S, H], see `attention.held`.
    mask_BS: bool[B, S], True where the encoder had a real token.
  """

  keys: jax.Array
  values: jax.Array
  mask_BS: jax.Array


class Decoder(nnx.Module):
  """Causal stack that looks back at itself and across at the encoder.

  Rows may be a multiple of the encoded examples: M adjacent rows (beams,
  samples, options) share the keys and values of one, which are never repeated.

  Letters beyond the common legend: R rows, R = M B.
  """

  def __init__(
    self,
    width: int,
    depth: int,
    heads: int,
    head_width: int,
    mlp_width: int,
    *,
    mlp: str,
    is_scaled: bool,
    is_scanned: bool,
    remat: str,
    rngs: layers.Keys,
    dropout: float = 0.0,
  ):
    block = (width, heads, head_width, mlp_width, mlp, is_scaled, dropout)
    self.bias = attention.RelativeBias(heads, is_causal=True, rngs=rngs)
    self.blocks = stack.make(
      lambda rngs: DecoderBlock(*block, rngs=rngs), depth, rngs
    )
    self.norm = layers.RMSNorm(width)
    self.depth, self.heads, self.head_width = depth, heads, head_width
    self.is_scanned, self.remat = is_scanned, remat

  def __call__(
    self,
    x_RTD: jax.Array,
    encoded_BSD: jax.Array,
    mask_BS: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Runs the stack over whole targets.

    Args:
      x_RTD: float[R, T, D], embedded inputs.
      encoded_BSD, mask_BS: from the encoder; bool, True at a real token.
      key: for dropout; None for none.

    Returns:
      float[R, T, D].
    """
    bias_NTT = self.bias(x_RTD.shape[1], x_RTD.shape[1])
    mask_1TT = attention.causal_mask(x_RTD.shape[1])

    def body(block, carry, _):
      x_RTD, key = carry
      key, block_key = layers.split(key, 2)
      x_RTD = layers.constrain(x_RTD, "batch")
      x_RTD = block.attend_self(x_RTD, mask_1TT, bias_NTT, block_key)
      x_RTD = block.attend_across(x_RTD, encoded_BSD, mask_BS, block_key)
      return (x_RTD, key), None

    options = {"is_scanned": self.is_scanned, "remat": self.remat}
    (x_RTD, _), _ = stack.run(self.blocks, body, (x_RTD, key), **options)
    return self.norm(x_RTD)

  def context(self, encoded_BSD: jax.Array, mask_BS: jax.Array) -> Context:
    """Keys and values of an encoded sequence for every block, once."""

    def body(block, _, __):
      return None, attention.held(block.cross.keys_values(encoded_BSD))

    keys, values = stack.run(
      self.blocks, body, None, is_scanned=self.is_scanned
    )[1]
    return Context(keys, values, mask_BS)

  def init_cache(
    self, rows: int, length: int, dtype: jax.typing.DTypeLike
  ) -> tuple[jax.Array, jax.Array]:
    """Empty keys and values, float[layers, R, N, length, H] each."""
    shape = (self.depth, rows, self.heads, length, self.head_width)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

  def extend(
    self,
    x_R1D: jax.Array,
    position: jax.Array,
    context: Context,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Runs the stack over one more token of each target.

    Args:
      x_R1D: float[R, 1, D], the token's embedding.
      position: int32[], where it stands.
      context: from `context`.
      cache: from `init_cache` or the last call.

    Returns:
      (float[R, 1, D], the cache with this position written).
    """
    key_positions = jnp.arange(cache[0].shape[3])
    mask_1TS = (key_positions <= position)[None, None, :]
    bias_NTS = self.bias(1, cache[0].shape[3], position)

    def body(block, x_R1D, layer):
      cross, own = layer
      x_R1D, own = block.extend_self(x_R1D, mask_1TS, bias_NTS, own, position)
      x_R1D = block.extend_across(x_R1D, *cross, context.mask_BS)
      return x_R1D, own

    layers_ = ((context.keys, context.values), cache)
    x_R1D, cache = stack.run(
      self.blocks, body, x_R1D, layers_, is_scanned=self.is_scanned
    )
    return self.norm(x_R1D), cache


class DecoderBlock(nnx.Module):
  """Causal attention, cross-attention and an MLP."""

  def __init__(
    self, width, heads, head_width, mlp_width, mlp, is_scaled, dropout, *, rngs
  ):
    self.dropout = dropout
    self.norm_attention = layers.RMSNorm(width)
    self.attention = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_cross = layers.RMSNorm(width)
    self.cross = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_mlp = layers.RMSNorm(width)
    self.mlp = _mlp(width, mlp_width, mlp, rngs)

  def attend_self(self, x_RTD, mask_1TT, bias_NTT, key) -> jax.Array:
    """float[R, T, D] -> float[R, T, D]: each position looks back."""
    kv_key, attention_key, drop_key = layers.split(_fold(key, 0), 3)
    h_RTD = self.norm_attention(x_RTD)
    keys_values = self.attention.keys_values(h_RTD, kv_key)
    y_RTD = self.attention(
      h_RTD, *keys_values, mask_1TT, bias_NTT, attention_key
    )
    return x_RTD + layers.dropout(y_RTD, self.dropout, drop_key)

  def extend_self(self, x_R1D, mask_1TS, bias_NTS, cache, position):
    """As `attend_self` for one position: (float[R, 1, D], grown cache)."""
    h_R1D = self.norm_attention(x_R1D)
    keys, values = (
      jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=2)
      for old, new in zip(
        cache,
        attention.held(self.attention.keys_values(h_R1D)),
        strict=True,
      )
    )
    x_R1D = x_R1D + self.attention(
      h_R1D, keys, values, mask_1TS, bias_NTS, is_held=True
    )
    return x_R1D, (keys, values)

  def attend_across(self, x_RTD, encoded_BSD, mask_BS, key) -> jax.Array:
    """float[R, T, D] -> float[R, T, D]: across, then through the MLP."""
    cross_key, mlp_key, *drop_keys = layers.split(_fold(key, 1), 4)
    h_BTD = self._by_example(x_RTD, len(encoded_BSD))
    y_BTD = self.cross.across(
      h_BTD, encoded_BSD, mask_BS[:, None, :], cross_key
    )
    y_RTD = y_BTD.reshape(x_RTD.shape)
    x_RTD = x_RTD + layers.dropout(y_RTD, self.dropout, drop_keys[0])
    y_RTD = self.mlp(self.norm_mlp(x_RTD), mlp_key)
    return x_RTD + layers.dropout(y_RTD, self.dropout, drop_keys[1])

  def extend_across(self, x_R1D, keys_BNSH, values_BNSH, mask_BS) -> jax.Array:
    """As `attend_across` for one position, over what is held."""
    h_BTD = self._by_example(x_R1D, len(keys_BNSH))
    y_BTD = self.cross(
      h_BTD, keys_BNSH, values_BNSH, mask_BS[:, None, :], is_held=True
    )
    x_R1D = x_R1D + y_BTD.reshape(x_R1D.shape)
    return x_R1D + self.mlp(self.norm_mlp(x_R1D))

  def _by_example(self, x_RTD, examples: int) -> jax.Array:
    """Cross-attention does not tell rows of an example from positions."""
    return self.norm_cross(x_RTD).reshape(examples, -1, x_RTD.shape[-1])


def _fold(key: jax.Array | None, number: int) -> jax.Array | None:
  return None if key is None else jax.random.fold_in(key, number)


def _attention(
  width, heads, head_width, is_scaled, rngs
) -> attention.Attention:
  return attention.Attention(
    width, heads, head_width, rngs=rngs, use_bias=False, is_scaled=is_scaled
  )


def _mlp(
  width: int, mlp_width: int, mlp: str, rngs: layers.Keys
) -> layers.GatedMLP | layers.MLP:
  if mlp not in MLPS:
    raise ValueError(f"mlp={mlp!r} is not one of {sorted(MLPS)}.")
  is_gated, activation = MLPS[mlp]
  if is_gated:
    return layers.GatedMLP(width, mlp_width, activation=activation, rngs=rngs)
  return layers.MLP(
    width, mlp_width, activation=activation, use_bias=False, rngs=rngs
  )
