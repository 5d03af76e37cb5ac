"""T5-style encoder and decoder stacks (v1.1: gated MLP, RMS norm, no bias)."""

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import attention, layers


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
    is_scaled: bool,
    rngs: nnx.Rngs,
  ):
    self.bias = attention.RelativeBias(heads, is_causal=False, rngs=rngs)
    self.blocks = nnx.List(
      [
        EncoderBlock(width, heads, head_width, mlp_width, is_scaled, rngs=rngs)
        for _ in range(depth)
      ]
    )
    self.norm = layers.RMSNorm(width)

  def __call__(self, x_BSD: jax.Array, mask_BS: jax.Array) -> jax.Array:
    """float[B, S, D], bool[B, S] (True: a real token) -> float[B, S, D]."""
    positions = jnp.arange(x_BSD.shape[1])
    bias_NSS = self.bias(positions, positions)
    for block in self.blocks:
      x_BSD = block(x_BSD, mask_BS[:, None, :], bias_NSS)
    return self.norm(x_BSD)


class EncoderBlock(nnx.Module):
  """Self-attention, then a gated MLP, each behind an RMS norm."""

  def __init__(
    self, width, heads, head_width, mlp_width, is_scaled, *, rngs: nnx.Rngs
  ):
    self.norm_attention = layers.RMSNorm(width)
    self.attention = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_mlp = layers.RMSNorm(width)
    self.mlp = layers.GatedMLP(width, mlp_width, rngs=rngs)

  def __call__(self, x_BSD, mask_B1S, bias_NSS) -> jax.Array:
    """float[B, S, D] -> float[B, S, D]."""
    h_BSD = self.norm_attention(x_BSD)
    keys, values = self.attention.keys_values(h_BSD)
    x_BSD = x_BSD + self.attention(h_BSD, keys, values, mask_B1S, bias_NSS)
    return x_BSD + self.mlp(self.norm_mlp(x_BSD))


class Decoder(nnx.Module):
  """Causal stack that looks back at itself and across at the encoder."""

  def __init__(
    self,
    width: int,
    depth: int,
    heads: int,
    head_width: int,
    mlp_width: int,
    *,
    is_scaled: bool,
    rngs: nnx.Rngs,
  ):
    self.bias = attention.RelativeBias(heads, is_causal=True, rngs=rngs)
    self.blocks = nnx.List(
      [
        DecoderBlock(width, heads, head_width, mlp_width, is_scaled, rngs=rngs)
        for _ in range(depth)
      ]
    )
    self.norm = layers.RMSNorm(width)

  def cross_keys_values(self, encoded_BSD: jax.Array) -> list:
    """Per block: keys and values of the encoded sequence, [B, S, N, H]."""
    return [block.cross.keys_values(encoded_BSD) for block in self.blocks]

  def __call__(
    self,
    x_BTD: jax.Array,
    cross: list,
    cross_mask_BS: jax.Array,
    cache: list | None = None,
    position: jax.Array | int = 0,
  ) -> tuple[jax.Array, list | None]:
    """Runs the stack over a whole target, or over its next token.

    Args:
      x_BTD: float[B, T, D]; with a cache, T is 1.
      cross: from `cross_keys_values`.
      cross_mask_BS: bool[B, S], True where the encoder had a real token.
      cache: per block, keys and values float[B, L, N, H] of the L positions
        that decoding may reach; None to see only `x_BTD` itself.
      position: int32[], of the token in x_BTD; used with a cache.

    Returns:
      (float[B, T, D], the cache with this position written, or None).
    """
    if cache is None:
      positions = key_positions = jnp.arange(x_BTD.shape[1])
      mask_1TS = attention.causal_mask(x_BTD.shape[1])
    else:
      positions = jnp.full((1,), position, jnp.int32)
      key_positions = jnp.arange(cache[0][0].shape[1])
      mask_1TS = (key_positions <= position)[None, None, :]
    bias_NTS = self.bias(positions, key_positions)
    new_cache = []
    for index, (block, keys_values) in enumerate(
      zip(self.blocks, cross, strict=True)
    ):
      x_BTD, own = block(
        x_BTD,
        keys_values,
        cross_mask_BS[:, None, :],
        mask_1TS,
        bias_NTS,
        None if cache is None else cache[index],
        position,
      )
      new_cache.append(own)
    return self.norm(x_BTD), None if cache is None else new_cache


class DecoderBlock(nnx.Module):
  """Causal attention, cross-attention and a gated MLP."""

  def __init__(
    self, width, heads, head_width, mlp_width, is_scaled, *, rngs: nnx.Rngs
  ):
    self.norm_attention = layers.RMSNorm(width)
    self.attention = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_cross = layers.RMSNorm(width)
    self.cross = _attention(width, heads, head_width, is_scaled, rngs)
    self.norm_mlp = layers.RMSNorm(width)
    self.mlp = layers.GatedMLP(width, mlp_width, rngs=rngs)

  def __call__(
    self, x_BTD, cross, cross_mask_B1S, mask_1TS, bias_NTS, cache, position
  ):
    """float[B, T, D] -> (float[B, T, D], own keys and values)."""
    h_BTD = self.norm_attention(x_BTD)
    keys, values = self.attention.keys_values(h_BTD)
    if cache is not None:
      start = (0, position, 0, 0)
      keys = jax.lax.dynamic_update_slice(cache[0], keys, start)
      values = jax.lax.dynamic_update_slice(cache[1], values, start)
    x_BTD = x_BTD + self.attention(h_BTD, keys, values, mask_1TS, bias_NTS)
    h_BTD = self.norm_cross(x_BTD)
    x_BTD = x_BTD + self.cross(h_BTD, cross[0], cross[1], cross_mask_B1S)
    return x_BTD + self.mlp(self.norm_mlp(x_BTD)), (keys, values)


def _attention(
  width, heads, head_width, is_scaled, rngs
) -> attention.Attention:
  return attention.Attention(
    width, heads, head_width, rngs=rngs, use_bias=False, is_scaled=is_scaled
  )
