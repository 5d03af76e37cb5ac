"""Beam search in one compiled loop with a static cache.

Every example has M rows, its beams, which share what the decoder holds of the
example. Each step takes the best 2M of all their continuations: those that
end become hypotheses if they are among the best M, the best M that do not end
are the next beams. Rules and scores are those of transformers' generate
(generation/utils.py, _beam_search), so that scores can be compared.

Letters beyond the common legend: M beams, K = 2M candidates.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vpd_jax.decode import loop, sampling
from vpd_jax.models import stack

# Score of a place where there is no beam or hypothesis yet. Finite: it is
# added to and divided.
NOTHING = -1e9


class Hypotheses(NamedTuple):
  """The best found for each example, best first.

  Attributes:
    tokens: int32[B, n, T], each row with its eos, then padding.
    scores: float32[B, n], sum of log-probabilities, eos among them, divided
      by length ** length_penalty.
    lengths: int32[B, n], how many tokens a row has, eos among them.
  """

  tokens: jax.Array
  scores: jax.Array
  lengths: jax.Array


class _State(NamedTuple):
  """Between two steps: beams that go on, hypotheses that have ended."""

  position: jax.Array
  last_BM: jax.Array
  tokens_BMT: jax.Array
  scores_BM: jax.Array
  ended_tokens_BMT: jax.Array
  ended_scores_BM: jax.Array
  has_ended_BM: jax.Array
  can_improve_B: jax.Array
  is_running: jax.Array
  cache: Any


def search(
  model: Any,
  image: jax.Array | None,
  prompt_BS: jax.Array,
  *,
  max_new_tokens: int,
  eos_id: int,
  beams: int,
  pad_id: int = 0,
  returned: int = 1,
  length_penalty: float = 1.0,
  early_stopping: bool | Literal["never"] = False,
  min_new_tokens: int = 0,
  forbidden_ids: Sequence[int] = (),
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> Hypotheses:
  """Searches for the targets of the highest score.

  Args:
    model: has encode_image, encode, context, init_cache, decode_next and
      start_id.
    image: uint8[B, height, width, 3]; None for text alone.
    prompt_BS: int32[B, S], padded.
    max_new_tokens: T; beams that come so far are cut and become hypotheses.
    eos_id: ends a row.
    beams: M.
    pad_id: what follows the end.
    returned: n, how many of the M best hypotheses are wanted.
    length_penalty: exponent of the length that sums of log-probabilities are
      divided by: 0 for none, more favours longer targets.
    early_stopping: True: an example is done when it has M hypotheses. False:
      when the best beam, ended now, would be no better than the worst of them.
      "never": as False, but with the length at which it could score best.
    min_new_tokens: no row ends before it has so many tokens without its eos.
    forbidden_ids: tokens that are never chosen. Other tokens' probabilities
      stay as they are.
    dtype: of the activations.

  Raises:
    ValueError: for settings out of range.

  Model arrays, image and prompt may be traced; all else is static.
  """
  loop.check_lengths(max_new_tokens, min_new_tokens)
  if not 1 <= returned <= beams:
    raise ValueError(f"returned={returned} is not in 1..{beams}, the beams.")
  if early_stopping not in (True, False, "never"):
    raise ValueError(
      f"early_stopping={early_stopping!r} is not True, False or 'never'."
    )
  model = loop.prepare(model)
  encoded_BSD, mask_BS = loop.encode(model, image, prompt_BS, dtype)
  context = model.context(encoded_BSD, mask_BS)
  batch = prompt_BS.shape[0]
  is_first_M = (np.arange(2 * beams) < beams)[None]

  def extend(state):
    logits_RV, cache = model.decode_next(
      state.last_BM.reshape(-1), state.position, context, state.cache
    )
    vocab = logits_RV.shape[-1]
    _check_vocab(vocab - len(set(forbidden_ids)), beams)
    log_probs_RV = jax.nn.log_softmax(logits_RV)
    log_probs_RV = sampling.forbid(log_probs_RV, forbidden_ids)
    if min_new_tokens:
      is_too_early = state.position < min_new_tokens
      log_probs_RV = sampling.forbid_end(log_probs_RV, eos_id, is_too_early)
    total_BMV = (
      log_probs_RV.reshape(batch, beams, vocab) + state.scores_BM[..., None]
    )
    sums_BK, index_BK = jax.lax.top_k(
      total_BMV.reshape(batch, beams * vocab), 2 * beams
    )
    parent_BK, token_BK = index_BK // vocab, index_BK % vocab
    tokens_BKT = jax.lax.dynamic_update_slice(
      _take(state.tokens_BMT, parent_BK),
      token_BK[..., None],
      (0, 0, state.position),
    )
    length = state.position + 1
    ends_BK = (token_BK == eos_id) | (length == max_new_tokens)

    going_BK = jnp.where(ends_BK, sums_BK + NOTHING, sums_BK)
    scores_BM, next_BM = jax.lax.top_k(going_BK, beams)
    parent_BM = _take(parent_BK, next_BM)

    is_closed_B = ~state.can_improve_B
    if early_stopping is True:
      is_closed_B |= jnp.all(state.has_ended_BM, axis=1)
    ends_BK = ends_BK & is_first_M & ~is_closed_B[:, None]
    ended = _best(
      beams,
      (state.ended_scores_BM, state.ended_tokens_BMT, state.has_ended_BM),
      (
        jnp.where(
          ends_BK, _penalised(sums_BK, length, length_penalty), NOTHING
        ),
        tokens_BKT,
        ends_BK,
      ),
    )
    ended_scores_BM, ended_tokens_BMT, has_ended_BM = ended

    is_long = early_stopping == "never" and length_penalty > 0
    possible_B = _penalised(
      scores_BM[:, 0],
      jnp.int32(max_new_tokens) if is_long else length,
      length_penalty,
    )
    is_full_B = jnp.all(has_ended_BM, axis=1)
    worst_B = jnp.where(is_full_B, jnp.min(ended_scores_BM, axis=1), NOTHING)
    can_improve_B = state.can_improve_B & (possible_B > worst_B)
    is_running = jnp.any(can_improve_B) & (length < max_new_tokens)
    if early_stopping is True:
      is_running &= ~jnp.all(is_full_B)
    return _State(
      position=length,
      last_BM=_take(token_BK, next_BM),
      tokens_BMT=_take(tokens_BKT, next_BM),
      scores_BM=scores_BM,
      ended_tokens_BMT=ended_tokens_BMT,
      ended_scores_BM=ended_scores_BM,
      has_ended_BM=has_ended_BM,
      can_improve_B=can_improve_B,
      is_running=is_running,
      cache=_reorder(cache, parent_BM),
    )

  nothing_BM = jnp.full((batch, beams), NOTHING, jnp.float32)
  empty_BMT = jnp.full((batch, beams, max_new_tokens), pad_id, jnp.int32)
  start = _State(
    position=jnp.zeros((), jnp.int32),
    last_BM=jnp.full((batch, beams), model.start_id, jnp.int32),
    tokens_BMT=empty_BMT,
    # All beams are alike, so only the first may go on.
    scores_BM=nothing_BM.at[:, 0].set(0.0),
    ended_tokens_BMT=empty_BMT,
    ended_scores_BM=nothing_BM,
    has_ended_BM=jnp.zeros((batch, beams), bool),
    can_improve_B=jnp.ones((batch,), bool),
    is_running=jnp.array(True),
    cache=loop.init_cache(
      model, batch * beams, max_new_tokens, encoded_BSD.dtype
    ),
  )
  end = jax.lax.while_loop(lambda state: state.is_running, extend, start)
  tokens_BnT = end.ended_tokens_BMT[:, :returned]
  is_eos_BnT = tokens_BnT == eos_id
  lengths_Bn = jnp.where(
    jnp.any(is_eos_BnT, axis=-1),
    jnp.argmax(is_eos_BnT, axis=-1).astype(jnp.int32) + 1,
    max_new_tokens,
  )
  return Hypotheses(tokens_BnT, end.ended_scores_BM[:, :returned], lengths_Bn)


def _check_vocab(allowed: int, beams: int) -> None:
  if allowed <= 2 * beams:
    raise ValueError(
      f"beams={beams} needs more than {2 * beams} tokens to choose from; the"
      f" vocabulary has {allowed} that are not forbidden."
    )


def _penalised(sums: jax.Array, length: jax.Array, penalty: float) -> jax.Array:
  return sums / length.astype(jnp.float32) ** penalty


def _best(beams: int, old: tuple, new: tuple) -> tuple:
  """The best of two sets of (scores, ...), [B, M, ...] each, best first."""
  merged = [
    jnp.concatenate(pair, axis=1) for pair in zip(old, new, strict=True)
  ]
  scores_BM, index_BM = jax.lax.top_k(merged[0], beams)
  return (scores_BM, *(_take(x, index_BM) for x in merged[1:]))


def _take(x: jax.Array, index_BI: jax.Array) -> jax.Array:
  """[B, M, ...], int32[B, I] in 0..M-1 -> [B, I, ...]."""
  index = index_BI.reshape(*index_BI.shape, *(1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)


def _reorder(cache: Any, parent_BM: jax.Array) -> Any:
  """Gives each row the cache of the beam that it continues."""
  batch, beams = parent_BM.shape
  first_B1 = jnp.arange(batch, dtype=jnp.int32)[:, None] * beams
  row_R = (first_B1 + parent_BM).reshape(-1)

  def take(x):
    if isinstance(x, stack.Layers):
      return jax.tree.map(lambda x: jnp.take(x, row_R, axis=0), x)
    return jnp.take(x, row_R, axis=1)

  return jax.tree.map(
    take, cache, is_leaf=lambda x: isinstance(x, stack.Layers)
  )
