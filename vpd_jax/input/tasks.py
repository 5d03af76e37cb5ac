"""Record -> image, and prompt, target and weight arrays of its two tasks.

The two tasks of Visual Program Distillation (Hu et al., arXiv:2312.03052,
section 3.2): the label task asks for the answer, the rationale task for the
reasoning that ends in it. They differ in the sentence after the question.

    prompt   what  colour  ...  phrase  .  0  0
    target   red   <eos>   0    0
    weights  1     1       0    0
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax.input import images
from vpd_jax.input.tokens import ByteTokenizer

LABEL_SUFFIX = "Answer with a single word or phrase."
RATIONALE_SUFFIX = "Explain the rationale to answer the question."


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Array lengths in tokens; the end token of a target counts."""

  prompt: int
  label: int
  rationale: int


class TooLongError(ValueError):
  """A prompt or target of a record does not fit its array."""


def join_prompt(question: str, suffix: str) -> str:
  """The question and the sentence that names the task, if there is one."""
  return f"{question} {suffix}" if suffix else question


def to_arrays(
  record: Mapping[str, Any],
  tokenizer: ByteTokenizer,
  lengths: Lengths,
  *,
  image_px: int,
  label_suffix: str = LABEL_SUFFIX,
  rationale_suffix: str = RATIONALE_SUFFIX,
) -> dict[str, np.ndarray]:
  """One row of a batch.

  Args:
    record: as `schema.parse` returns it.
    tokenizer: for prompts and targets.
    lengths: S, T1 and T2 below.
    image_px: height and width of the image.
    label_suffix: sentence that asks for the answer; empty: the question alone.
    rationale_suffix: sentence that asks for the rationale.

  Returns:
    image uint8[image_px, image_px, 3]; label_prompt and rationale_prompt
    int32[S]; label_target int32[T1], label_weights float32[T1];
    rationale_target int32[T2], rationale_weights float32[T2]. Weights are 1 on
    a target's tokens and its end, 0 on padding, and all 0 where the record has
    no answer or no rationale.

  Raises:
    TooLongError: if a text does not fit; nothing is cut.
    ValueError: if the image cannot be decoded.
  """
  arrays = tokenize(
    record,
    tokenizer,
    lengths,
    label_suffix=label_suffix,
    rationale_suffix=rationale_suffix,
  )
  name = f"image {record['image_id']!r} of record {record['example_id']!r}"
  arrays["image"] = images.decode(record["image"], image_px, name)
  return arrays


def tokenize(
  record: Mapping[str, Any],
  tokenizer: ByteTokenizer,
  lengths: Lengths,
  *,
  label_suffix: str = LABEL_SUFFIX,
  rationale_suffix: str = RATIONALE_SUFFIX,
) -> dict[str, np.ndarray]:
  """`to_arrays` without the image."""
  tasks = (
    ("label", label_suffix, record["answer"], lengths.label),
    ("rationale", rationale_suffix, record["rationale"], lengths.rationale),
  )
  arrays = {}
  for task, suffix, target, target_length in tasks:
    prompt_ids = tokenizer.encode(join_prompt(record["question"], suffix))
    target_ids = tokenizer.encode(target)
    if target_ids:
      target_ids.append(tokenizer.eos_id)
    for part, ids, limit, option in (
      ("prompt", prompt_ids, lengths.prompt, "prompt"),
      ("target", target_ids, target_length, task),
    ):
      if len(ids) > limit:
        raise TooLongError(
          f"record {record['example_id']!r}: its {task} {part} has {len(ids)}"
          f" tokens, more than lengths.{option}={limit}. Raise that length, or"
          " set drop_long=True to leave such records out."
        )
    arrays[f"{task}_prompt"] = _padded(prompt_ids, lengths.prompt, np.int32)
    arrays[f"{task}_target"] = _padded(target_ids, target_length, np.int32)
    arrays[f"{task}_weights"] = _padded(
      [1.0] * len(target_ids), target_length, np.float32
    )
  return arrays


def _padded(values, length: int, dtype) -> np.ndarray:
  # Padding is 0: tokens.PAD_ID, and the weight of nothing.
  out = np.zeros(length, dtype)
  out[: len(values)] = values
  return out
