"""Batches without data: to tell the time of input from that of the step."""

from collections.abc import Sequence

import numpy as np

from vpd_jax.input import tasks
from vpd_jax.input.tokens import Tokenizer


class SyntheticSource:
  """One random batch, always the same; a `workers.BatchSource`."""

  def __init__(
    self,
    tokenizer: Tokenizer,
    lengths: tasks.Lengths,
    batch_size: int,
    *,
    image_px: int,
    seed: int,
    units: Sequence[int],
    questions_per_image: int = 1,
    image_patch_px: int | None = None,
  ):
    """Makes the batch.

    Args:
      tokenizer: its ids but padding, begin and end are drawn.
      lengths: of the token arrays; all prompts and targets fill them.
      batch_size: questions in a global batch.
      image_px: height and width of images.
      seed: of the draws.
      units: images of the global batch that this process has.
      questions_per_image: rows per image.
      image_patch_px: side of patches, as in `tasks.to_arrays`; each image is
        a square of them.
    """
    self._batch_size = batch_size
    special = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)
    ids = np.setdiff1d(
      np.arange(tokenizer.vocab_size, dtype=np.int32),
      [token for token in special if token is not None],
    )
    parts = []
    for unit in units:
      # Each image has its own generator: the same on any process.
      rng = np.random.default_rng([seed, unit])
      image = rng.integers(0, 256, (1, image_px, image_px, 3), np.uint8)
      part = {"image": image}
      if image_patch_px:
        side = image_px // image_patch_px
        part = {
          "image": image.reshape(1, side**2, -1),
          "image_mask": np.ones((1, side**2), bool),
          "image_grid": np.full((1, 2), side, np.int32),
        }
      for task, target_length in (
        ("label", lengths.label),
        ("rationale", lengths.rationale),
      ):
        shape = (questions_per_image, target_length)
        prompt = (questions_per_image, lengths.prompt)
        part[f"{task}_prompt"] = ids[rng.integers(len(ids), size=prompt)]
        part[f"{task}_target"] = ids[rng.integers(len(ids), size=shape)]
        part[f"{task}_weights"] = np.ones(shape, np.float32)
      parts.append(part)
    self._batch = {
      key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    return dict(self._batch)

  def example_ids(self, number: int) -> list[str]:
    """No row has a name of its own."""
    return ["synthetic"] * self._batch_size
