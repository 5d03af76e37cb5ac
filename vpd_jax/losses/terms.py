"""What every step-by-step loss does with the cross-entropy of its tokens.

Nats are averaged over an example's own target, then over the examples that
have that target. Sums over examples are divided by totals that the caller may
give, so those of the parts of a batch add up to the batch's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Totals = Mapping[str, jax.Array]


class Sums(NamedTuple):
  """One target's sums over examples, float32[] each.

  Attributes:
    nats: of the mean over an example's tokens of their cross-entropy.
    log_z_squared: the same of log(Z)**2, Z the softmax's denominator.
    tokens: how many there are.
  """

  nats: jax.Array
  log_z_squared: jax.Array
  tokens: jax.Array


def totals(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """How many examples of a batch have each target.

  Args:
    batch: label_weights, rationale_weights float32[B, T].

  Returns:
    label and rationale, float32[] each.
  """
  return {
    name: count_examples(batch[f"{name}_weights"])
    for name in ("label", "rationale")
  }


def sum_examples(
  nats_BT: jax.Array, log_z_BT: jax.Array, weights_BT: jax.Array
) -> Sums:
  """Means over each example's tokens, summed over examples.

  Raises:
    ValueError: if the shapes do not agree.
  """
  if nats_BT.shape != weights_BT.shape:
    raise ValueError(
      f"targets {nats_BT.shape} and weights {weights_BT.shape} do not agree."
    )
  tokens_B = jnp.sum(weights_BT, axis=-1)

  def of_means(x_BT):
    return jnp.sum(jnp.sum(x_BT, axis=-1) / jnp.maximum(tokens_B, 1))

  return Sums(
    of_means(nats_BT * weights_BT),
    of_means(log_z_BT**2 * weights_BT),
    jnp.sum(tokens_B),
  )


def combine(
  label: Sums,
  rationale: Sums | None,
  totals: Totals,
  rationale_weight: float,
  z_loss: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Adds the two terms, each divided by how many examples have it.

  Args:
    label, rationale: from `sum_examples`; rationale may be None where its
      weight is 0.
    totals: from `totals`, of this batch or of one that this is a part of.
    rationale_weight: w.
    z_loss: each token's nats grow by it times log(Z)**2; 0: not.

  Returns:
    (loss float32[], metrics float32[] each: loss; loss_label, loss_rationale
    in nats; z_loss, its share of the loss; tokens, how many targets have).
    All of them add up over the parts of a batch.
  """
  terms = {"label": (label, 1.0)}
  if rationale is not None:
    terms["rationale"] = (rationale, rationale_weight)
  loss = of_z = tokens = jnp.zeros((), jnp.float32)
  metrics = {}
  for name, (sums, weight) in terms.items():
    total = jnp.maximum(totals[name], 1)
    metrics[f"loss_{name}"] = sums.nats / total
    loss += weight * metrics[f"loss_{name}"]
    of_z += weight * z_loss * sums.log_z_squared / total
    tokens += sums.tokens
  if z_loss:
    loss += of_z
    metrics["z_loss"] = of_z
  return loss, metrics | {"loss": loss, "tokens": tokens}


def count_examples(weights_BT: jax.Array) -> jax.Array:
  """How many examples have a token of weight above 0: float32[]."""
  has_target_B = jnp.sum(weights_BT, axis=-1) > 0
  return jnp.sum(has_target_B.astype(jnp.float32))
