"""The step-by-step loss with the work that its two passes share done once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vpd_jax.losses import plain


def step_by_step(
  model: Any, batch: Mapping[str, jax.Array], *, rationale_weight: float = 1.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Same value and gradients as `plain.step_by_step`, for less work.

  The image is encoded once and its tokens fan out to both prompts, which go
  through the encoder as one batch of 2B rows (a prompt enters the encoder, so
  no more than the image can be shared). Each target is then decoded at its
  own length: a two-token label does not pay for a rationale's slots.

  Args:
    model: has `encode_image`, `encode`, `decode` and `logits`.
    batch: as in `plain.step_by_step`; both prompts have one length.
    rationale_weight: w; 0 trains on labels only.

  Returns:
    (loss float32[], metrics).
  """
  image_BPD = model.encode_image(batch["image"])
  if not rationale_weight:
    encoded = model.encode(image_BPD, batch["label_prompt"])
    return plain.combine(_xent(model, encoded, batch, "label"), None, 0.0)
  prompts = (batch["label_prompt"], batch["rationale_prompt"])
  encoded, mask = model.encode(
    jnp.concatenate([image_BPD, image_BPD]), jnp.concatenate(prompts)
  )
  rows = image_BPD.shape[0]
  return plain.combine(
    _xent(model, (encoded[:rows], mask[:rows]), batch, "label"),
    _xent(model, (encoded[rows:], mask[rows:]), batch, "rationale"),
    rationale_weight,
  )


def _xent(model, encoded, batch, name):
  targets = batch[f"{name}_target"]
  return plain.per_example_xent(
    model.logits(model.decode(*encoded, targets)),
    targets,
    batch[f"{name}_weights"],
  )
