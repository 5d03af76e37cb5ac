"""The step-by-step distillation loss written as its formula: the reference.

    L = L_label + w * L_rationale

Each term is a token cross-entropy averaged over an example's own target, then
over the examples that have that target. Source: Hu et al., Visual Program
Distillation, arXiv:2312.03052, Eq. 1 (w = 1); the ancestor is Hsieh et al.,
Distilling Step-by-Step, arXiv:2305.02301.

A batch has N images and B rows of text: B / N adjacent rows ask of one image.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vpd_jax.losses import terms
from vpd_jax.models import layers, naflex

# `step.train_step` takes it from the module of the loss.
totals = terms.totals


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
  nats_BT, log_z_BT = token_nats(logits_BTV, targets_BT)
  sums = terms.sum_examples(nats_BT, log_z_BT, weights_BT)
  return sums.nats, terms.count_examples(weights_BT)


def token_nats(
  logits_BTV: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of each target token, and its log Z: float32[B, T] each."""
  if logits_BTV.shape[:2] != targets_BT.shape:
    raise ValueError(
      f"logits {logits_BTV.shape} and targets {targets_BT.shape} do not agree"
      " in [B, T]."
    )
  logits_BTV = logits_BTV.astype(jnp.float32)
  log_probs_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
  # A product with one-hot rows: the gradient of a gather is a slow scatter.
  one_hot_BTV = jax.nn.one_hot(targets_BT, logits_BTV.shape[-1])
  nats_BT = -jnp.sum(log_probs_BTV * one_hot_BTV, axis=-1)
  return nats_BT, jax.nn.logsumexp(logits_BTV, axis=-1)


def step_by_step(
  model: Any,
  batch: Mapping[str, jax.Array],
  key: jax.Array | None = None,
  *,
  totals: terms.Totals | None = None,
  rationale_weight: float = 1.0,
  z_loss: float = 0.0,
  dtype: str = "float32",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss in two honest passes: one per target, image encoded in each.

  Args:
    model: has `encode_image`, `encode`, `decode` and `logits`.
    batch: image uint8[N, height, width, 3]; label_prompt, rationale_prompt
      int32[B, S]; label_target int32[B, T], label_weights float32[B, T]; the
      same for rationale_*, whose T may differ. B is a multiple of N.
    key: for dropout; None for none.
    totals: what sums over examples are divided by; None: `terms.totals`.
    rationale_weight: w; 0 trains on labels only and skips the second pass.
    z_loss: see `terms.combine`.
    dtype: of the activations; weights, and the loss itself, stay float32.

  Returns:
    (loss float32[], metrics), see `terms.combine`.
  """
  label_key, rationale_key = layers.split(key, 2)
  label = _pass(model, batch, "label", dtype, label_key)
  rationale = None
  if rationale_weight:
    rationale = _pass(model, batch, "rationale", dtype, rationale_key)
  if totals is None:
    totals = terms.totals(batch)
  return terms.combine(label, rationale, totals, rationale_weight, z_loss)


def _pass(model, batch, name, dtype, key) -> terms.Sums:
  image_key, encode_key, decode_key = layers.split(key, 3)
  target = batch[f"{name}_target"]
  image = naflex.picture(batch)
  image_NPD = model.encode_image(image, jnp.dtype(dtype), image_key)
  image_BPD = jax.tree.map(
    lambda x: jnp.repeat(x, len(target) // len(x), axis=0), image_NPD
  )
  encoded = model.encode(image_BPD, batch[f"{name}_prompt"], encode_key)
  logits_BTV = model.logits(model.decode(*encoded, target, decode_key))
  return terms.sum_examples(
    *token_nats(logits_BTV, target), batch[f"{name}_weights"]
  )
