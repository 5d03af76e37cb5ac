"""Schedules, the optax chain, and which parameters train."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vpd_jax import step, trees
from vpd_jax.models import quantized

# Arrays of these names are vectors, also where a stack's lie together.
VECTORS = ("scale", "bias")
FLOATS = ("float32", "bfloat16", "float16")


class Optimizer(NamedTuple):
  """What `make` makes.

  Attributes:
    tx: for the trained parameters alone.
    schedule: step -> learning rate.
    partition: parameters, or their shapes -> (trained, frozen).
  """

  tx: optax.GradientTransformation
  schedule: optax.Schedule
  partition: Callable[[Any], tuple[Any, Any]]


def make(
  *,
  total_steps: int,
  lr: float,
  warmup_steps: int = 0,
  final_lr_share: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.98,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  train: Sequence[str] = ("",),
  freeze: Sequence[str] = (),
  frozen_dtype: str = "float32",
) -> Optimizer:
  """AdamW behind global-norm clipping, on a cosine schedule with warm-up.

  Args:
    total_steps: where the schedule ends.
    lr: the peak.
    warmup_steps: linear from 0 to the peak.
    final_lr_share: share of the peak left at the end.
    b1, b2: of Adam; VPD uses 0.9 and 0.98.
    weight_decay: decoupled, on matrices only, not on scales and biases.
    clip_norm: of all trained gradients together; 0 for none.
    train: regular expressions; a parameter trains if one matches its path
      from the start.
    freeze: the like; these do not train, whatever `train` says.
    frozen_dtype: that frozen matrices are kept in. "int8" or "nf4": kernels
      of projections are, see `models.quantized`; the others stay float32.

  Raises:
    ValueError: if the warm-up is longer than the run, or the dtype is
      unknown. `partition` raises one if a pattern matches no parameter,
      nothing would train, or a kernel cannot be quantized.
    ImportError: if the dtype needs qwix and it is not installed.

  Source: Hu et al., arXiv:2312.03052, appendix B.3 (betas, cosine, warm-up).
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"optim.warmup_steps={warmup_steps} must be below total_steps="
      f"{total_steps}."
    )
  if frozen_dtype not in (*FLOATS, *quantized.DTYPES):
    raise ValueError(
      f"optim.frozen_dtype={frozen_dtype!r} is none of"
      f" {[*FLOATS, *quantized.DTYPES]}."
    )
  if frozen_dtype in quantized.DTYPES:
    quantized.library()
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup_steps else lr,
    peak_value=lr,
    warmup_steps=warmup_steps,
    decay_steps=total_steps,
    end_value=lr * final_lr_share,
  )
  chain = []
  if clip_norm:
    chain.append(optax.clip_by_global_norm(clip_norm))
  chain.append(
    optax.adamw(
      schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=matrices
    )
  )

  def partition(params):
    is_trained = jax.tree.map(
      lambda trained, frozen: trained and not frozen,
      trees.mask(params, train),
      trees.mask(params, freeze),
    )
    if not any(jax.tree.leaves(is_trained)):
      raise ValueError(
        f"optim.train={list(train)} and freeze={list(freeze)} leave nothing to"
        " train."
      )
    trained, frozen = step.split(params, is_trained)
    if frozen_dtype in quantized.DTYPES:
      return trained, quantized.kernels(frozen, frozen_dtype)
    return trained, _cast(frozen, jnp.dtype(frozen_dtype))

  return Optimizer(optax.chain(*chain), schedule, partition)


def matrices(params: Any) -> Any:
  """A tree of bools: is a parameter a matrix, or a stack of them?"""
  named = trees.flatten_with_names(params)
  pattern = rf"(.*/)?({'|'.join(VECTORS)})$"
  is_matrix = {
    name: leaf.ndim > 1 and not re.match(pattern, name)
    for name, leaf in named.items()
  }
  return trees.unflatten_like(params, is_matrix)


def _cast(params: Any, dtype: Any) -> Any:
  def cast(leaf, is_matrix):
    if not is_matrix:
      return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return leaf.update(dtype=dtype)
    return leaf.astype(dtype)

  return jax.tree.map(cast, params, matrices(params))
