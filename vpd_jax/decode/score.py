"""Log-likelihoods of given answers: which option does the model favour?

    options, weights = pad_options([[[5, 1]], [[7, 8, 1], [9, 1]]])
    scores = score_options(model, image, prompt, options, weights)
    best = jnp.argmax(scores.mean, axis=1)

Letters beyond the common legend: O options of a question, R = B O rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vpd_jax.decode import loop

# Logits of so many positions are held at once: at a vocabulary of 256k those
# of all options at once may take more memory than the model.
POSITIONS = 2048


class Scores(NamedTuple):
  """Of each option; minus infinity for one that has no token.

  Attributes:
    sum: float32[B, O], log-probability of its tokens.
    mean: float32[B, O], the same per token.
  """

  sum: jax.Array
  mean: jax.Array


def score_options(
  model: Any,
  image: jax.Array | None,
  prompt_BS: jax.Array,
  options_BOT: jax.Array,
  weights_BOT: jax.Array,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> Scores:
  """Log-likelihood of each option as the target of its question.

  Image and prompt are encoded once per question; its options share them.

  Args:
    model: has encode_image, encode, decode and logits.
    image: uint8[B, height, width, 3]; None for text alone.
    prompt_BS: int32[B, S], padded.
    options_BOT: int32[B, O, T], targets, each with its eos if that is to
      count, then padding.
    weights_BOT: float32[B, O, T], 1 on tokens that count, else 0.
    dtype: of the activations.

  Raises:
    ValueError: if the shapes do not agree.
  """
  if (
    options_BOT.ndim != 3
    or weights_BOT.shape != options_BOT.shape
    or options_BOT.shape[0] != prompt_BS.shape[0]
  ):
    raise ValueError(
      f"options {options_BOT.shape} and weights {weights_BOT.shape} must both"
      f" be [questions, options, tokens]; there are {prompt_BS.shape[0]}"
      " questions."
    )
  batch, options, length = options_BOT.shape
  encoded = loop.encode(model, image, prompt_BS, dtype)
  target_RT = options_BOT.reshape(batch * options, length)
  hidden_RTD = model.decode(*encoded, target_RT)
  log_probs_BOT = _log_probs(model, hidden_RTD, target_RT).reshape(
    batch, options, length
  )
  # Where the weight is 0 the log-probability may be minus infinity.
  sum_BO = jnp.sum(
    jnp.where(weights_BOT > 0, weights_BOT * log_probs_BOT, 0.0), axis=-1
  )
  tokens_BO = jnp.sum(weights_BOT, axis=-1)
  has_tokens_BO = tokens_BO > 0
  mean_BO = sum_BO / jnp.where(has_tokens_BO, tokens_BO, 1.0)
  return Scores(
    jnp.where(has_tokens_BO, sum_BO, -jnp.inf),
    jnp.where(has_tokens_BO, mean_BO, -jnp.inf),
  )


def pad_options(
  options: Sequence[Sequence[Sequence[int]]], pad_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Arrays of options that differ in number and length.

  Args:
    options: of each question the options, of each its token ids.
    pad_id: fills up.

  Returns:
    (int32[B, O, T], float32[B, O, T]) for `score_options`; O and T are the
    most that a question, an option has. What is no option has no weight.

  Raises:
    ValueError: for a question without options or an option without tokens.
  """
  for number, of_one in enumerate(options):
    if not of_one or not all(len(option) for option in of_one):
      raise ValueError(
        f"question {number} has options {list(map(list, of_one))}; it needs at"
        " least one, and each needs a token."
      )
  most = max(map(len, options), default=0)
  longest = max((len(o) for of_one in options for o in of_one), default=0)
  tokens = np.full((len(options), most, longest), pad_id, np.int32)
  weights = np.zeros(tokens.shape, np.float32)
  for row, of_one in enumerate(options):
    for column, option in enumerate(of_one):
      tokens[row, column, : len(option)] = option
      weights[row, column, : len(option)] = 1.0
  return tokens, weights


def _log_probs(
  model: Any, hidden_RTD: jax.Array, target_RT: jax.Array
) -> jax.Array:
  """Log-probability of each target token, float32[R, T], a slice at a time.

  Slices are of positions, so that rows may lie on different devices.
  """
  rows, length = target_RT.shape
  width = max(1, min(length, POSITIONS // max(rows, 1)))
  slices = -(-length // width)
  room = ((0, 0), (0, slices * width - length))
  target_RSW = jnp.pad(target_RT, room).reshape(rows, slices, width)
  hidden_RSWD = jnp.pad(hidden_RTD, (*room, (0, 0))).reshape(
    rows, slices, width, hidden_RTD.shape[-1]
  )

  def of_slice(part):
    hidden_RWD, target_RW = part
    logits_RWV = model.logits(hidden_RWD)
    flat = logits_RWV.reshape(-1, logits_RWV.shape[-1])
    return loop.log_prob(flat, target_RW.reshape(-1)).reshape(rows, width)

  log_probs_SRW = jax.lax.map(
    of_slice, (jnp.moveaxis(hidden_RSWD, 1, 0), jnp.moveaxis(target_RSW, 1, 0))
  )
  return jnp.moveaxis(log_probs_SRW, 0, 1).reshape(rows, -1)[:, :length]
