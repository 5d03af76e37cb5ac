"""The step-by-step loss with the work that its passes share done once.

image, once -> tokens -> to each question's two prompts, 2B rows -> encoder
                                   |
label's rows -> decoder, T_label --+
                                   +-> nats from hidden states, in chunks
rationale's rows -> decoder, T_rationale
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vpd_jax.losses import chunked, terms
from vpd_jax.models import layers, naflex

# `step.train_step` takes it from the module of the loss.
totals = terms.totals


def step_by_step(
  model: Any,
  batch: Mapping[str, jax.Array],
  key: jax.Array | None = None,
  *,
  totals: terms.Totals | None = None,
  rationale_weight: float = 1.0,
  z_loss: float = 0.0,
  chunk: int | None = None,
  prompts_apart: bool = False,
  dtype: str = "float32",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Same value and gradients as `plain.step_by_step`, for less work.

  An image is encoded once and its tokens fan out to the prompts of all its
  questions, which go through the encoder as one batch of 2B rows (a prompt
  enters the encoder, so no more than the image can be shared). Each target is
  then decoded at its own length: a two-token label does not pay for a
  rationale's slots. Both together meet the output matrix once, in chunks of
  its rows; see `chunked.token_nats`.

  Args:
    model: has `encode_image`, `encode`, `decode` and `output`.
    batch: as in `plain.step_by_step`; both prompts have one length.
    key: for dropout; None for none.
    totals: what sums over examples are divided by; None: `terms.totals`.
    rationale_weight: w; 0 trains on labels only and skips the rest.
    z_loss: see `terms.combine`.
    chunk: see `chunked.token_nats`.
    prompts_apart: encode the labels' prompts and the rationales' as two batches
      of B rows. On CPU those run side by side and fit the cache better; an
      accelerator wants the one of 2B.
    dtype: of the activations; weights, and the loss itself, stay float32.

  Returns:
    (loss float32[], metrics), see `terms.combine`.
  """
  image_key, encode_key, *decode_keys = layers.split(key, 4)
  names = ("label", "rationale") if rationale_weight else ("label",)
  image = naflex.picture(batch)
  image_NPD = model.encode_image(image, jnp.dtype(dtype), image_key)
  batches = [(name,) for name in names] if prompts_apart else [names]
  encode_keys = layers.split(encode_key, len(batches))
  hidden = []
  for together, encode_key in zip(batches, encode_keys, strict=True):
    # Rows of an image are adjacent, so they stay on the device that has it.
    prompts = jnp.stack([batch[f"{name}_prompt"] for name in together], axis=1)
    prompts = prompts.reshape(-1, prompts.shape[-1])
    repeat = functools.partial(_repeat, rows=len(prompts))
    encoded = model.encode(jax.tree.map(repeat, image_NPD), prompts, encode_key)
    for index, name in enumerate(together):
      own = _every(encoded, index, len(together))
      target, decode_key = batch[f"{name}_target"], decode_keys[len(hidden)]
      hidden.append(model.decode(*own, target, decode_key))
  nats_BT, log_z_BT = chunked.token_nats(
    model.output(jnp.concatenate(hidden, axis=1)),
    jnp.concatenate([batch[f"{name}_target"] for name in names], axis=1),
    chunk=chunk,
  )
  sums: dict[str, Any] = {"rationale": None}
  start = 0
  for name in names:
    weights_BT = batch[f"{name}_weights"]
    end = start + weights_BT.shape[1]
    sums[name] = terms.sum_examples(
      nats_BT[:, start:end], log_z_BT[:, start:end], weights_BT
    )
    start = end
  if totals is None:
    totals = terms.totals(batch)
  return terms.combine(
    sums["label"], sums["rationale"], totals, rationale_weight, z_loss
  )


def _repeat(x: jax.Array, rows: int) -> jax.Array:
  """Each row as often as gives so many."""
  return jnp.repeat(x, rows // len(x), axis=0)


def _every(tree: Any, start: int, stride: int) -> Any:
  """Rows start, start + stride and so on of each array."""
  return jax.tree.map(
    lambda x: x.reshape(-1, stride, *x.shape[1:])[:, start], tree
  )
