"""Token cross-entropy that never holds the logits of the whole vocabulary.

The output matrix is taken in chunks of rows. A running maximum and sum give
the log of the softmax's denominator, log Z, which is all that the backward
pass needs to compute a chunk's probabilities anew:

    nats = log Z - logit of the target
    d nats / d logit = p - [is the target]        d log Z / d logit = p

Where the matrix does not train, the sum of p_v (row v) is kept beside log Z,
as in attention whose keys and values are the rows; the backward pass then has
no product with the matrix left.

Rows are seen as [G, L], and a chunk has C rows of each group, so that a matrix
whose vocabulary is cut over devices stays so. With G = 2, L = 5, C = 2:

    group 0   0 0 1 1 2      the last chunk starts at row 3, which it shares
    group 1   0 0 1 1 2      with the one before, and counts only what is new

Letters beyond the common legend: N tokens, G groups of L rows, C rows of a
chunk in each group.

Source: Milakov and Gimelshein, Online normalizer calculation for softmax,
arXiv:1805.02867; Wijmans et al., Cut Your Losses, arXiv:2411.09009.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from vpd_jax.models import output as output_lib

# The size of a mesh axis that cuts the vocabulary should divide it.
MAX_GROUPS = 16
# Without a chunk given. Logits that fit here cost less kept than made twice.
LOGITS_AT_A_TIME = 1 << 24
LEAST_CHUNK = 4096


def token_nats(
  output: output_lib.Output, targets: jax.Array, *, chunk: int | None = None
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of each target token, and its log Z.

  Args:
    output: hidden float[..., D] and the matrix, from a model's `output`.
    targets: int32[...], of the shape of hidden states.
    chunk: rows of the matrix whose logits exist at a time, at most; a
      vocabulary of no more is taken in one piece, and then its logits are kept
      for the backward pass, not computed twice. None: as many as give 64 MiB
      of logits, and 4096 at least.

  Returns:
    (nats, log_z), float32[...] each. Both may be differentiated by hidden
    states and matrix. Products are of the dtype of hidden states, sums are in
    float32.

  Raises:
    ValueError: if the shapes do not agree, or chunk is below 1.
  """
  if chunk is None:
    chunk = max(LEAST_CHUNK, LOGITS_AT_A_TIME // max(targets.size, 1))
  if output.hidden.shape[:-1] != targets.shape or chunk < 1:
    raise ValueError(
      f"hidden states {output.hidden.shape}, targets {targets.shape},"
      f" {chunk=}: expected a target for each state, and a chunk of 1 or more."
    )
  rows = output.vocab_size
  if rows <= chunk:
    return _one_piece(output, targets)
  groups = math.gcd(rows, MAX_GROUPS)
  length = rows // groups
  chunks = -(-length // max(1, chunk // groups))
  size = -(-length // chunks)
  cut = _Cut(output.is_rows, output.softcap, groups, length, size)
  hidden_ND = output.hidden.reshape(-1, output.hidden.shape[-1])
  found: Any = _nats(cut, hidden_ND, output.matrix, targets.reshape(-1))
  nats_N, log_z_N = found
  return nats_N.reshape(targets.shape), log_z_N.reshape(targets.shape)


def _one_piece(
  output: output_lib.Output, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  logits = output.logits()
  log_z = jax.nn.logsumexp(logits, axis=-1)
  # A product with one-hot rows: the gradient of a gather is a slow scatter.
  one_hot = jax.nn.one_hot(targets, output.vocab_size)
  return log_z - jnp.sum(logits * one_hot, axis=-1), log_z


class _Cut(NamedTuple):
  """How a matrix is cut into chunks."""

  is_rows: bool
  softcap: float | None
  groups: int
  length: int
  size: int

  @property
  def chunks(self) -> int:
    return -(-self.length // self.size)

  @property
  def axis(self) -> int:
    return 1 if self.is_rows else 2

  def grouped(self, matrix: jax.Array) -> jax.Array:
    """[V, D] -> [G, L, D], or [D, V] -> [D, G, L]."""
    shape = (self.groups, self.length)
    if self.is_rows:
      return matrix.reshape(*shape, matrix.shape[1])
    return matrix.reshape(matrix.shape[0], *shape)

  def start(self, index: jax.Array) -> jax.Array:
    """Where a chunk begins in each group."""
    return jnp.minimum(index * self.size, self.length - self.size)


class _Chunk(NamedTuple):
  """One chunk's rows and what they give.

  Attributes:
    rows: float[G, C, D] or [D, G, C], in the dtype of hidden states.
    logits: float32[N, G, C].
    slope: float32[N, G, C], that of the softcap at each logit; 1.0 for none.
    is_new: bool[1, 1, C], False where the chunk before had the row.
    is_target: bool[N, G, C].
  """

  rows: jax.Array
  logits: jax.Array
  slope: Any
  is_new: jax.Array
  is_target: jax.Array


def _chunk(cut, index, hidden_ND, matrix, targets_N) -> _Chunk:
  start = cut.start(index)
  rows = jax.lax.dynamic_slice_in_dim(
    cut.grouped(matrix), start, cut.size, cut.axis
  ).astype(hidden_ND.dtype)
  logits = jnp.einsum(
    "ND,GCD->NGC" if cut.is_rows else "ND,DGC->NGC",
    hidden_ND,
    rows,
    preferred_element_type=jnp.float32,
  )
  slope = 1.0
  if cut.softcap is not None:
    logits = output_lib.cap(logits, cut.softcap)
    slope = 1.0 - (logits / cut.softcap) ** 2
  place_C = start + jnp.arange(cut.size)
  ids_GC = jnp.arange(cut.groups)[:, None] * cut.length + place_C[None]
  return _Chunk(
    rows,
    logits,
    slope,
    is_new=(place_C >= index * cut.size)[None, None],
    is_target=targets_N[:, None, None] == ids_GC[None],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nats(cut, hidden_ND, matrix, targets_N):
  return _forward_pass(cut, hidden_ND, matrix, targets_N)[:2]


def _forward(cut, hidden_ND, matrix, targets_N):
  values = hidden_ND.value, matrix.value, targets_N.value
  nats_N, log_z_N, mean_ND = _forward_pass(
    cut, *values, has_mean=not matrix.perturbed
  )
  return (nats_N, log_z_N), (*values, log_z_N, mean_ND)


def _backward(cut, kept, gradients):
  hidden_ND, matrix, targets_N, log_z_N, mean_ND = kept
  of_nats_N, of_log_z_N = (
    jnp.zeros_like(log_z_N) if isinstance(g, SymbolicZero) else g
    for g in gradients
  )
  of_p_N = of_nats_N + of_log_z_N
  if mean_ND is None:
    d_hidden, d_matrix = _backward_pass(
      cut, hidden_ND, matrix, targets_N, log_z_N, of_p_N, of_nats_N
    )
    return d_hidden.astype(hidden_ND.dtype), d_matrix, None
  target_ND = _target_rows(cut, hidden_ND, matrix, targets_N)
  d_hidden = of_p_N[:, None] * mean_ND - of_nats_N[:, None] * target_ND
  return d_hidden.astype(hidden_ND.dtype), None, None


_nats.defvjp(_forward, _backward, symbolic_zeros=True)


def _forward_pass(cut, hidden_ND, matrix, targets_N, has_mean=False):
  """nats and log Z, float32[N], and the mean row under p, float32[N, D].

  Through a softcap, a row counts in the mean by the cap's slope at its logit.
  """
  zeros_N = jnp.zeros(targets_N.shape, jnp.float32)

  def body(index, carry):
    top_N, sum_N, target_N, mean_ND = carry
    c = _chunk(cut, index, hidden_ND, matrix, targets_N)
    is_counted = c.is_target & c.is_new
    target_N += jnp.sum(jnp.where(is_counted, c.logits, 0.0), axis=(1, 2))
    logits = jnp.where(c.is_new, c.logits, -jnp.inf)
    new_top_N = jnp.maximum(top_N, jnp.max(logits, axis=(1, 2)))
    p = jnp.exp(logits - new_top_N[:, None, None])
    shrink_N = jnp.exp(top_N - new_top_N)
    sum_N = sum_N * shrink_N + jnp.sum(p, axis=(1, 2))
    if mean_ND is not None:
      rows_ND = _weigh_rows(cut, p * c.slope, c.rows)
      mean_ND = mean_ND * shrink_N[:, None] + rows_ND
    return new_top_N, sum_N, target_N, mean_ND

  mean_ND = jnp.zeros(hidden_ND.shape, jnp.float32) if has_mean else None
  start = (jnp.full_like(zeros_N, -jnp.inf), zeros_N, zeros_N, mean_ND)
  top_N, sum_N, target_N, mean_ND = jax.lax.fori_loop(
    0, cut.chunks, body, start
  )
  if mean_ND is not None:
    mean_ND = mean_ND / sum_N[:, None]
  log_z_N = top_N + jnp.log(sum_N)
  return log_z_N - target_N, log_z_N, mean_ND


def _backward_pass(
  cut, hidden_ND, matrix, targets_N, log_z_N, of_p_N, of_target_N
):
  """Gradients of hidden states, float32[N, D], and of the matrix.

  That of a logit is of_p * p, less of_target where it is the target's.
  """

  def body(index, carry):
    d_hidden, d_matrix = carry
    c = _chunk(cut, index, hidden_ND, matrix, targets_N)
    p = jnp.exp(c.logits - log_z_N[:, None, None])
    of_target = jnp.where(c.is_target, of_target_N[:, None, None], 0.0)
    d_logits = (of_p_N[:, None, None] * p - of_target) * c.slope
    new = jnp.where(c.is_new, d_logits, 0.0)
    d_hidden += _weigh_rows(cut, new, c.rows)
    d_rows = jnp.einsum(
      "NGC,ND->GCD" if cut.is_rows else "NGC,ND->DGC",
      d_logits.astype(hidden_ND.dtype),
      hidden_ND,
      preferred_element_type=jnp.float32,
    )
    # Rows that were in the chunk before come out the same again.
    d_matrix = jax.lax.dynamic_update_slice_in_dim(
      d_matrix, d_rows.astype(matrix.dtype), cut.start(index), cut.axis
    )
    return d_hidden, d_matrix

  d_hidden, d_matrix = jax.lax.fori_loop(
    0,
    cut.chunks,
    body,
    (
      jnp.zeros(hidden_ND.shape, jnp.float32),
      jnp.zeros_like(cut.grouped(matrix)),
    ),
  )
  return d_hidden, d_matrix.reshape(matrix.shape)


def _weigh_rows(cut, weights_NGC, rows) -> jax.Array:
  """Sum of a chunk's rows by these weights, float32[N, D]."""
  return jnp.einsum(
    "NGC,GCD->ND" if cut.is_rows else "NGC,DGC->ND",
    weights_NGC.astype(rows.dtype),
    rows,
    preferred_element_type=jnp.float32,
  )


def _target_rows(cut, hidden_ND, matrix, targets_N) -> jax.Array:
  """Each target's row, by the softcap's slope at its logit: float32[N, D]."""
  rows_ND = jnp.take(matrix, targets_N, axis=0 if cut.is_rows else 1)
  rows_ND = (rows_ND if cut.is_rows else rows_ND.T).astype(jnp.float32)
  if cut.softcap is None:
    return rows_ND
  logit_N1 = jnp.sum(hidden_ND * rows_ND, axis=1, keepdims=True)
  return rows_ND * (1.0 - jnp.tanh(logit_N1 / cut.softcap) ** 2)
