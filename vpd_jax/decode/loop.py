"""Generates tokens in one compiled loop with a static cache.

An image and its prompt are encoded once, however many samples are drawn; what
the decoder holds of them is held once too, and shared by the samples' rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vpd_jax.decode import sampling
from vpd_jax.models import stack


class Generation(NamedTuple):
  """What was generated for each example.

  Attributes:
    tokens: int32[B, M, T], each row with its eos, then padding.
    log_probs: float32[B, M], of each row's tokens, eos among them, in the
      model's own distribution: before temperature, top-k, top-p and what was
      forbidden.
    lengths: int32[B, M], how many tokens a row has, eos among them.
  """

  tokens: jax.Array
  log_probs: jax.Array
  lengths: jax.Array


class _State(NamedTuple):
  """Between two steps; `token_R` is what the next step takes in."""

  position: jax.Array
  token_R: jax.Array
  tokens_RT: jax.Array
  log_probs_R: jax.Array
  lengths_R: jax.Array
  has_ended_R: jax.Array
  cache: Any


def generate(
  model: Any,
  image: jax.Array | None,
  prompt_BS: jax.Array,
  *,
  max_new_tokens: int,
  eos_id: int,
  pad_id: int = 0,
  samples: int = 1,
  temperature: float = 0.0,
  top_k: int | None = None,
  top_p: float | None = None,
  key: jax.Array | None = None,
  min_new_tokens: int = 0,
  forbidden_ids: Sequence[int] = (),
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> Generation:
  """Chooses the next token, again and again, until all rows have ended.

  A row's draws depend on the key, the row's place and its own example alone:
  not on other rows, nor on how many samples there are.

  Args:
    model: has encode_image, encode, context, init_cache, decode_next,
      start_id and is_scanned.
    image: uint8[B, height, width, 3]; None for text alone.
    prompt_BS: int32[B, S], padded.
    max_new_tokens: T, where a row is cut that has not ended by itself.
    eos_id: ends a row.
    pad_id: what follows the end.
    samples: M, how many rows each example gets.
    temperature: of the draws; 0 takes the most likely token instead.
    top_k, top_p: what to draw from, see `sampling.warp`.
    key: PRNG key of the draws.
    min_new_tokens: no row ends before it has so many tokens without its eos.
    forbidden_ids: tokens that are never chosen.
    dtype: of the activations.

  Raises:
    ValueError: for settings out of range, or such as do not go together.

  Model arrays, image, prompt and key may be traced; all else is static.
  """
  check_lengths(max_new_tokens, min_new_tokens)
  if samples < 1:
    raise ValueError(f"samples={samples} must be at least 1.")
  if temperature < 0:
    raise ValueError(f"temperature={temperature} must not be negative.")
  is_greedy = temperature == 0
  if is_greedy and (samples > 1 or (top_k, top_p, key) != (None, None, None)):
    raise ValueError(
      "temperature=0 takes the most likely token: samples, top_k, top_p and"
      " key need a temperature over 0."
    )
  if not is_greedy and key is None:
    raise ValueError(f"temperature={temperature} needs a key to draw with.")
  model = prepare(model)
  encoded_BSD, mask_BS = encode(model, image, prompt_BS, dtype)
  context = model.context(encoded_BSD, mask_BS)
  batch, rows = prompt_BS.shape[0], prompt_BS.shape[0] * samples
  row_keys = None if key is None else _row_keys(key, batch, samples)

  def is_running(state):
    return (state.position < max_new_tokens) & ~jnp.all(state.has_ended_R)

  def extend(state):
    logits_RV, cache = model.decode_next(
      state.token_R, state.position, context, state.cache
    )
    allowed_RV = sampling.forbid(logits_RV, forbidden_ids)
    if min_new_tokens:
      is_too_early = state.position < min_new_tokens
      allowed_RV = sampling.forbid_end(allowed_RV, eos_id, is_too_early)
    if row_keys is None:
      token_R = sampling.greedy(allowed_RV)
    else:
      keys_R = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.position)
      warped_RV = sampling.warp(
        allowed_RV, temperature=temperature, top_k=top_k, top_p=top_p
      )
      token_R = sampling.draw(warped_RV, keys_R)
    log_probs_R = log_prob(logits_RV, token_R)
    has_ended_R = state.has_ended_R
    token_R = jnp.where(has_ended_R, pad_id, token_R)
    return _State(
      position=state.position + 1,
      token_R=token_R,
      tokens_RT=jax.lax.dynamic_update_slice(
        state.tokens_RT, token_R[:, None], (0, state.position)
      ),
      log_probs_R=state.log_probs_R + jnp.where(has_ended_R, 0.0, log_probs_R),
      lengths_R=state.lengths_R + (~has_ended_R).astype(jnp.int32),
      has_ended_R=has_ended_R | (token_R == eos_id),
      cache=cache,
    )

  start = _State(
    position=jnp.zeros((), jnp.int32),
    token_R=jnp.full((rows,), model.start_id, jnp.int32),
    tokens_RT=jnp.full((rows, max_new_tokens), pad_id, jnp.int32),
    log_probs_R=jnp.zeros((rows,), jnp.float32),
    lengths_R=jnp.zeros((rows,), jnp.int32),
    has_ended_R=jnp.zeros((rows,), bool),
    cache=init_cache(model, rows, max_new_tokens, encoded_BSD.dtype),
  )
  end = jax.lax.while_loop(is_running, extend, start)
  return Generation(
    end.tokens_RT.reshape(batch, samples, max_new_tokens),
    end.log_probs_R.reshape(batch, samples),
    end.lengths_R.reshape(batch, samples),
  )


def greedy(
  model: Any, image: jax.Array | None, prompt_BS: jax.Array, **options: Any
) -> jax.Array:
  """Tokens of `generate` without draws or samples, int32[B, T]."""
  return generate(model, image, prompt_BS, **options).tokens[:, 0]


def prepare(model: Any) -> Any:
  """The model as the loop runs it: stacks that do not scan are taken apart.

  Their weights would be copied out of the stack at every token otherwise; so
  would what is held of the examples, and the cache.
  """
  return model if model.is_scanned else stack.unroll(model)


def init_cache(
  model: Any, rows: int, length: int, dtype: jax.typing.DTypeLike
) -> Any:
  """The model's empty cache, as the model from `prepare` takes it."""
  cache = model.init_cache(rows, length, dtype)
  return cache if model.is_scanned else stack.cut(cache)


def encode(
  model: Any,
  image: jax.Array | None,
  prompt_BS: jax.Array,
  dtype: jax.typing.DTypeLike,
) -> tuple[jax.Array, jax.Array]:
  """The image and its prompt as `model.encode` gives them.

  Raises:
    ValueError: if there is no example, or no image to say the dtype with.
  """
  if not prompt_BS.shape[0]:
    raise ValueError(f"prompt is {list(prompt_BS.shape)}: no example.")
  if image is not None:
    return model.encode(model.encode_image(image, dtype), prompt_BS)
  if jnp.dtype(dtype) != jnp.float32:
    raise ValueError(
      f"dtype={jnp.dtype(dtype)} needs an image: text alone is float32."
    )
  return model.encode(None, prompt_BS)


def log_prob(logits_RV: jax.Array, token_R: jax.Array) -> jax.Array:
  """Log-probability of a token in each row's distribution, float32[R]."""
  chosen_R1 = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)
  return chosen_R1[:, 0] - jax.nn.logsumexp(logits_RV, axis=-1)


def check_lengths(max_new_tokens: int, min_new_tokens: int) -> None:
  """Raises ValueError unless there is room for a token and the minimum."""
  if max_new_tokens < 1:
    raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1.")
  if not 0 <= min_new_tokens <= max_new_tokens:
    raise ValueError(
      f"min_new_tokens={min_new_tokens} is not in 0..{max_new_tokens}, which"
      " is max_new_tokens."
    )


def _row_keys(key: jax.Array, batch: int, samples: int) -> jax.Array:
  """PRNG keys [R], of example and sample."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  examples_B = fold(key, jnp.arange(batch))
  keys = jax.vmap(fold, (0, None))(examples_B, jnp.arange(samples))
  return keys.reshape(batch * samples, *keys.shape[2:])
