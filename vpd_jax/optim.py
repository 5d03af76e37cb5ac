"""Schedules, the optax chain, and which parameters train."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from vpd_jax import trees


def make(
  params: Any,
  *,
  total_steps: int,
  lr: float,
  warmup_steps: int = 0,
  final_lr_share: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.98,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  freeze: Sequence[str] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """AdamW behind global-norm clipping, on a cosine schedule with warm-up.

  Args:
    params: the parameters, or their shapes; nested dicts.
    total_steps: where the schedule ends.
    lr: the peak.
    warmup_steps: linear from 0 to the peak.
    final_lr_share: share of the peak left at the end.
    b1, b2: of Adam; VPD uses 0.9 and 0.98.
    weight_decay: decoupled, on arrays of two or more dimensions only.
    clip_norm: of all trained gradients together; 0 for none.
    freeze: regular expressions; a parameter whose path matches one from its
      start keeps its value, and no optimizer state exists for it.

  Returns:
    (transformation, schedule: step -> learning rate).

  Raises:
    ValueError: if a pattern of `freeze` matches no parameter, or the warm-up
      is longer than the run.

  Source: Hu et al., arXiv:2312.03052, appendix B.3 (betas, cosine, warm-up).
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"optim.warmup_steps={warmup_steps} must be below total_steps="
      f"{total_steps}."
    )
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
      schedule,
      b1=b1,
      b2=b2,
      weight_decay=weight_decay,
      mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
    )
  )
  tx = optax.chain(*chain)
  if freeze:
    labels = jax.tree.map(
      lambda is_frozen: "freeze" if is_frozen else "train",
      trees.mask(params, freeze),
    )
    tx = optax.multi_transform(
      {"train": tx, "freeze": optax.set_to_zero()}, labels
    )
  return tx, schedule
