"""Greedy decoding in one compiled loop with a static cache."""

from typing import Any

import jax
import jax.numpy as jnp


def greedy(
  model: Any,
  image: jax.Array,
  prompt_BS: jax.Array,
  *,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int = 0,
) -> jax.Array:
  """The most likely next token, again and again, until all rows have ended.

  Keys and values of the encoded sequence are computed once; those of the
  target are kept in a cache of `max_new_tokens` positions.

  Args:
    model: has encode_image, encode, decoder, init_cache and decode_next.
    image: uint8[B, height, width, 3].
    prompt_BS: int32[B, S], padded.
    max_new_tokens: where a row is cut that has not ended by itself.
    eos_id: ends a row.
    pad_id: first input, and what follows the end.

  Returns:
    int32[B, max_new_tokens], each row with its eos, then padding.
  """
  encoded_BSD, mask_BS = model.encode(model.encode_image(image), prompt_BS)
  cross = model.decoder.cross_keys_values(encoded_BSD)
  rows = prompt_BS.shape[0]

  def is_running(carry):
    position, _, _, _, has_ended = carry
    return (position < max_new_tokens) & ~jnp.all(has_ended)

  def extend(carry):
    position, token_B, out_BT, cache, has_ended_B = carry
    logits_BV, cache = model.decode_next(
      token_B, position, cross, mask_BS, cache
    )
    token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    token_B = jnp.where(has_ended_B, pad_id, token_B)
    out_BT = jax.lax.dynamic_update_slice(
      out_BT, token_B[:, None], (0, position)
    )
    has_ended_B = has_ended_B | (token_B == eos_id)
    return position + 1, token_B, out_BT, cache, has_ended_B

  start = (
    jnp.zeros((), jnp.int32),
    jnp.full((rows,), pad_id, jnp.int32),
    jnp.full((rows, max_new_tokens), pad_id, jnp.int32),
    model.init_cache(rows, max_new_tokens, encoded_BSD.dtype),
    jnp.zeros((rows,), bool),
  )
  return jax.lax.while_loop(is_running, extend, start)[2]
