"""The step-by-step distillation loss written as its formula: the reference.

    L = L_label + w * L_rationale

Each term is a token cross-entropy averaged over an example's own target, then
over the examples that have that target. Source: Hu et al., Visual Program
Distillation, arXiv:2312.03052, Eq. 1 (w = 1); the ancestor is Hsieh et al.,
Distilling Step-by-Step, arXiv:2305.02301.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vpd_jax.models import layers


def per_example_xent(
  logits_BTV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Token cross-entropy, averaged over each example's own length.

  Args:
    logits_BTV: float[B, T, V], before softmax.
    targets_BT: int32[B, T], token ids; ignored where the weight is 0.
    weights_BT: float32[B, T], 1 on target tokens, 0 on padding.

  Returns:
    (nats, examples), float32[] each: sum over examples of nats per token, and
    how many examples have a target. One without (no rationale was kept)
    counts in neither. The caller divides, after summing over devices.

  Raises:
    ValueError: if the shapes do not agree.
  """
  if logits_BTV.shape[:2] != targets_BT.shape or (
    targets_BT.shape != weights_BT.shape
  ):
    raise ValueError(
      f"logits {logits_BTV.shape}, targets {targets_BT.shape} and weights"
      f" {weights_BT.shape} do not agree in [B, T]."
    )
  log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)
  # A product with one-hot rows: the gradient of a gather is a slow scatter.
  one_hot_BTV = jax.nn.one_hot(targets_BT, logits_BTV.shape[-1])
  nats_BT = -jnp.sum(log_probs_BTV * one_hot_BTV, axis=-1) * weights_BT
  tokens_B = jnp.sum(weights_BT, axis=-1)
  nats = jnp.sum(jnp.sum(nats_BT, axis=-1) / jnp.maximum(tokens_B, 1))
  return nats, jnp.sum((tokens_B > 0).astype(jnp.float32))


def combine(
  label: tuple[jax.Array, jax.Array],
  rationale: tuple[jax.Array, jax.Array] | None,
  rationale_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Adds the two terms, each divided by how many examples have it.

  Args:
    label, rationale: (nats, examples) from `per_example_xent`; rationale may
      be None where its weight is 0.
    rationale_weight: w.

  Returns:
    (loss float32[], metrics: the loss and each term, float32[]).
  """
  loss = _mean(*label)
  metrics = {"loss_label": loss}
  if rationale is not None:
    metrics["loss_rationale"] = _mean(*rationale)
    loss = loss + rationale_weight * metrics["loss_rationale"]
  return loss, metrics | {"loss": loss}


def step_by_step(
  model: Any,
  batch: Mapping[str, jax.Array],
  key: jax.Array | None = None,
  *,
  rationale_weight: float = 1.0,
  dtype: str = "float32",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss in two honest passes: one per target, image encoded in each.

  Args:
    model: has `encode_image`, `encode`, `decode` and `logits`.
    batch: image uint8[B, height, width, 3]; label_prompt, rationale_prompt
      int32[B, S]; label_target int32[B, T], label_weights float32[B, T]; the
      same for rationale_*, whose T may differ.
    key: for dropout; None for none.
    dtype: of the activations; weights, and the loss itself, stay float32.
    rationale_weight: w; 0 trains on labels only and skips the second pass.

  Returns:
    (loss float32[], metrics).
  """
  label_key, rationale_key = layers.split(key, 2)
  label = _pass(model, batch, "label", dtype, label_key)
  rationale = None
  if rationale_weight:
    rationale = _pass(model, batch, "rationale", dtype, rationale_key)
  return combine(label, rationale, rationale_weight)


def _pass(model, batch, name, dtype, key) -> tuple[jax.Array, jax.Array]:
  image_key, encode_key, decode_key = layers.split(key, 3)
  target = batch[f"{name}_target"]
  image_BPD = model.encode_image(batch["image"], jnp.dtype(dtype), image_key)
  encoded = model.encode(image_BPD, batch[f"{name}_prompt"], encode_key)
  logits_BTV = model.logits(model.decode(*encoded, target, decode_key))
  return per_example_xent(logits_BTV, target, batch[f"{name}_weights"])


def _mean(nats: jax.Array, examples: jax.Array) -> jax.Array:
  return nats / jnp.maximum(examples, 1)
