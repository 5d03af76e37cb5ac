"""From logits to a token: what is forbidden, what is kept, what is drawn.

Pure functions of one position's logits, which compose in this order:

    logits = forbid(logits, forbidden_ids)
    logits = forbid_end(logits, eos_id, position < min_new_tokens)
    token = greedy(logits)
    token = draw(warp(logits, temperature=0.7, top_p=0.9), keys)

What may not be chosen has logits of minus infinity. All is in float32. Order
and definitions are those of transformers' generate, so that settings carry
over. Letters beyond the common legend: R rows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def forbid(logits_RV: jax.Array, forbidden_ids: Sequence[int]) -> jax.Array:
  """Rules out tokens, such as rows of the output matrix without a token.

  Args:
    logits_RV: float32[R, V].
    forbidden_ids: which, each in 0..V-1.

  Returns:
    float32[R, V].

  Raises:
    ValueError: for an id that is not in 0..V-1.
  """
  if not forbidden_ids:
    return logits_RV
  vocab = logits_RV.shape[-1]
  outside = [i for i in forbidden_ids if not 0 <= i < vocab]
  if outside:
    raise ValueError(
      f"forbidden_ids {outside[:5]} are not in 0..{vocab - 1}, the rows of the"
      " output matrix."
    )
  is_forbidden = np.zeros((1, vocab), bool)
  is_forbidden[0, list(forbidden_ids)] = True
  return jnp.where(is_forbidden, -jnp.inf, logits_RV)


def forbid_end(
  logits_RV: jax.Array, eos_id: int, is_too_early: jax.Array
) -> jax.Array:
  """Rules out `eos_id` where the target is too short to end, bool[]."""
  is_eos = (np.arange(logits_RV.shape[-1]) == eos_id)[None]
  return jnp.where(is_eos & is_too_early, -jnp.inf, logits_RV)


def greedy(logits_RV: jax.Array) -> jax.Array:
  """The most likely token, int32[R]; of equals that of the lowest id."""
  return jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)


def warp(
  logits_RV: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> jax.Array:
  """Logits of the distribution that is drawn from.

  Args:
    logits_RV: float32[R, V].
    temperature: divides the logits, first.
    top_k: keeps so many of the most likely tokens; None: all.
    top_p: keeps the most likely of what is left, until they hold this much
      probability; None: all.

  Returns:
    float32[R, V], minus infinity where a token is not kept.

  Raises:
    ValueError: for a setting out of range.
  """
  if temperature <= 0:
    raise ValueError(f"temperature={temperature} must be over 0.")
  logits_RV = logits_RV / temperature
  if top_k is not None:
    logits_RV = keep_top_k(logits_RV, top_k)
  return logits_RV if top_p is None else keep_top_p(logits_RV, top_p)


def keep_top_k(logits_RV: jax.Array, top_k: int) -> jax.Array:
  """Keeps the k most likely tokens, and what equals the k-th.

  Args:
    logits_RV: float32[R, V].
    top_k: at least 1; V or more keeps all.
  """
  if top_k < 1:
    raise ValueError(f"top_k={top_k} must be at least 1.")
  if top_k >= logits_RV.shape[-1]:
    return logits_RV
  last_R1 = jax.lax.top_k(logits_RV, top_k)[0][:, -1:]
  return jnp.where(logits_RV < last_R1, -jnp.inf, logits_RV)


def keep_top_p(logits_RV: jax.Array, top_p: float) -> jax.Array:
  """Keeps the fewest most likely tokens that hold the probability `top_p`.

  That is each token before which, in order of probability, there is less than
  `top_p`; the first always, and what equals the last kept. Source: Holtzman
  et al., arXiv:1904.09751, section 3.1.

  Args:
    logits_RV: float32[R, V].
    top_p: over 0, at most 1; 1 keeps all.
  """
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p={top_p} must be over 0 and at most 1.")
  if top_p == 1:
    return logits_RV
  sorted_RV = jnp.sort(logits_RV, axis=-1, descending=True)
  probs_RV = jax.nn.softmax(sorted_RV, axis=-1)
  before_RV = jnp.cumsum(probs_RV, axis=-1) - probs_RV
  # The first has nothing before it, but for rounding.
  kept_RV = jnp.where(before_RV < top_p, sorted_RV, sorted_RV[:, :1])
  last_R1 = jnp.min(kept_RV, axis=-1, keepdims=True)
  return jnp.where(logits_RV < last_R1, -jnp.inf, logits_RV)


def draw(logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
  """A token of each row's distribution, drawn with the row's own key.

  Args:
    logits_RV: float32[R, V], not normalised.
    keys_R: PRNG keys [R].

  Returns:
    int32[R].
  """
  return jax.vmap(jax.random.categorical)(keys_R, logits_RV).astype(jnp.int32)
