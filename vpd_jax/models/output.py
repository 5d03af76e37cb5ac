"""Hidden states and the matrix that turns them into scores, not multiplied.

output = model.output(hidden)   # what a loss takes, chunk by chunk
output.logits()                 # the scores at once
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers

# As many rows of a decoding step, but not one, are multiplied faster on CPU with
# the matrix as the left side.
_FEW_ROWS = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
  """What logits are computed from.

  Attributes:
    hidden: float[..., D], scaled already where the model scales.
    matrix: float[V, D] where `is_rows`, else float[D, V]; in the dtype that it
      is stored in, cast to that of `hidden` where it is used.
    is_rows: whether a token's vector is a row, as in an embedding.
    softcap: logits become softcap * tanh(logits / softcap); None: they stay.
  """

  hidden: jax.Array
  matrix: jax.Array
  is_rows: bool = dataclasses.field(metadata={"static": True})
  softcap: float | None = dataclasses.field(
    default=None, metadata={"static": True}
  )

  @property
  def vocab_size(self) -> int:
    """V, the matrix's rows or columns; a few may be of no token."""
    return self.matrix.shape[0 if self.is_rows else 1]

  def logits(self) -> jax.Array:
    """float32[..., V]."""
    matrix = self.matrix.astype(self.hidden.dtype)
    if self.is_rows:
      logits = _times_rows(self.hidden, matrix)
    else:
      logits = jnp.dot(self.hidden, matrix)
    return cap(logits, self.softcap)


def _times_rows(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
  """float[..., D], float[V, D] -> float[..., V]."""

  def plain(hidden, matrix):
    return jnp.einsum("...D,VD->...V", hidden, matrix)

  def matrix_first(hidden, matrix):
    few_RD = hidden.reshape(-1, hidden.shape[-1])
    logits_VR = jnp.einsum("VD,RD->VR", matrix, few_RD)
    # Or XLA would turn the product round again.
    logits_VR = jax.lax.optimization_barrier(logits_VR)
    return logits_VR.T.reshape(*hidden.shape[:-1], -1)

  rows = math.prod(hidden.shape[:-1])
  if not 1 < rows <= _FEW_ROWS:
    return plain(hidden, matrix)
  return jax.lax.platform_dependent(
    hidden, matrix, cpu=matrix_first, default=plain
  )


def cap(logits: jax.Array, softcap: float | None) -> jax.Array:
  """Logits in float32, softcap * tanh(logits / softcap) where there is one."""
  logits = logits.astype(jnp.float32)
  return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def of_head(hidden: jax.Array, head: layers.Linear) -> Output:
  """The output of a head of its own, without bias.

  A quantized kernel is made float first, and a low-rank update is added to it,
  so the whole matrix [D, V] exists beside what the model stores; its gradient
  too, where an update of the head trains.

  Args:
    hidden: float[..., D].
    head: projects D to V.
  """
  kernel = head.kernel
  if not isinstance(kernel, nnx.Param):
    # As the projection rounds it.
    matrix = kernel.param()[...].astype(hidden.dtype)
  else:
    matrix = kernel[...]
  if head.lora is not None:
    matrix = matrix.astype(jnp.float32) + head.lora.product()
  return Output(hidden, matrix, is_rows=False)
