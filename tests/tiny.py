"""Tiny sizes shared by tests."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from vpd_jax.models.pali import model, sizes

VOCAB = 40


def pali(seed: int = 0, **changes):
  """A debug-sized PaLI, as (graphdef, params)."""
  made = model.Model(
    vocab_size=VOCAB, seed=seed, **(sizes.get("debug") | changes)
  )
  graphdef, params = nnx.split(made, nnx.Param)
  return graphdef, nnx.to_pure_dict(params)


def drawn(make: Callable[[], nnx.Module], seed: int = 0):
  """A model of random weights, norms and biases too, as (graphdef, params).

  Drawn by NumPy: compiling what a model draws them with takes a second.
  """
  graphdef, state = nnx.split(nnx.eval_shape(make), nnx.Param)
  rng = np.random.default_rng(seed)

  def draw(path, array):
    noise = rng.standard_normal(array.shape).astype(np.float32)
    name = jax.tree_util.keystr(path)
    if "scale" in name or "bias" in name:
      return jax.numpy.asarray(0.2 * noise + ("scale" in name))
    width = array.shape[-1] if noise.ndim else 1
    return jax.numpy.asarray(noise / np.sqrt(width))

  shapes = nnx.to_pure_dict(state)
  return graphdef, jax.tree_util.tree_map_with_path(draw, shapes)


def batch(rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
  """Random arrays of a batch; targets and prompts of varied lengths.

  Row 1 has no rationale, as where no program was right.
  """
  rng = np.random.default_rng(seed)

  def text(length, shortest):
    ids = rng.integers(2, VOCAB, (rows, length)).astype(np.int32)
    lengths = rng.integers(shortest, length + 1, rows)
    mask = np.arange(length)[None] < lengths[:, None]
    return ids * mask, mask.astype(np.float32)

  label, label_weights = text(3, 1)
  rationale, rationale_weights = text(9, 2)
  rationale[1], rationale_weights[1] = 0, 0
  return {
    "image": rng.integers(0, 256, (rows, 48, 48, 3)).astype(np.uint8),
    "label_prompt": text(7, 3)[0],
    "label_target": label,
    "label_weights": label_weights,
    "rationale_prompt": text(7, 3)[0],
    "rationale_target": rationale,
    "rationale_weights": rationale_weights,
  }


def on_device(tree):
  """The tree with jax arrays."""
  return jax.tree.map(jax.numpy.asarray, tree)
