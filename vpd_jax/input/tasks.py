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

from vpd_jax.input import images, preprocess
from vpd_jax.input.tokens import Tokenizer

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
  tokenizer: Tokenizer,
  lengths: Lengths,
  *,
  image_px: int,
  image_kernel: str = images.DEFAULT_KERNEL,
  image_resize_px: int | None = None,
  image_patch_px: int | None = None,
  **options: Any,
) -> dict[str, np.ndarray]:
  """One row of a batch.

  Args:
    record: as `schema.parse` returns it.
    tokenizer: for prompts and targets.
    lengths: S, T1 and T2 below.
    image_px: height and width of the image.
    image_kernel: it is resized with, one of `images.KERNELS`; the image
      tower's own is in `preprocess.FAMILIES`.
    image_resize_px: side that a picture is resized to, where the tower sees
      only its first image_px rows and columns; None: image_px.
    image_patch_px: side of the patches of a NaFlex tower, which sees a picture
      close to its own shape: in at most as many as the square has. None: the
      picture is made that square.
    **options: of `tokenize`.

  Returns:
    image uint8[image_px, image_px, 3]; label_prompt and rationale_prompt
    int32[S]; label_target int32[T1], label_weights float32[T1];
    rationale_target int32[T2], rationale_weights float32[T2]. Weights are 1 on
    a target's tokens and its end, 0 on padding, and all 0 where the record has
    no answer or no rationale. With patches, as `preprocess.naflex` gives them:
    image uint8[P, image_patch_px**2 * 3], image_mask bool[P] and image_grid
    int32[2], with P = (image_px // image_patch_px)**2.

  Raises:
    TooLongError: if a text does not fit; nothing is cut.
    ValueError: if the image cannot be decoded, or image_resize_px is less than
      image_px, or given with patches.
  """
  side = image_resize_px or image_px
  if side < image_px:
    raise ValueError(f"image_resize_px={side} is less than {image_px=}.")
  arrays = tokenize(record, tokenizer, lengths, **options)
  name = f"image {record['image_id']!r} of record {record['example_id']!r}"
  if image_patch_px is None:
    image = images.decode(record["image"], side, name, image_kernel)
    return arrays | {"image": image[:image_px, :image_px]}
  if image_resize_px:
    raise ValueError(
      f"input.image_resize_px={image_resize_px} is for squares of pixels; this"
      " model's image tower is a NaFlex, whose patches have a picture's own"
      " shape. Leave it out."
    )
  cut = preprocess.naflex(
    images.read(record["image"], name),
    image_patch_px,
    (image_px // image_patch_px) ** 2,
    image_kernel,
  )
  names = ("image", "image_mask", "image_grid")
  return arrays | dict(zip(names, cut, strict=True))


def tokenize(
  record: Mapping[str, Any],
  tokenizer: Tokenizer,
  lengths: Lengths,
  *,
  label_suffix: str = LABEL_SUFFIX,
  rationale_suffix: str = RATIONALE_SUFFIX,
  has_bos: bool = False,
  prompt_end: str = "",
) -> dict[str, np.ndarray]:
  r"""`to_arrays` without the image.

  Args:
    record, tokenizer, lengths: as there.
    label_suffix: sentence that asks for the answer; empty: the question alone.
    rationale_suffix: sentence that asks for the rationale.
    has_bos: begin prompts with the tokenizer's begin token (PaliGemma).
    prompt_end: text after each prompt, with tokens of its own (PaliGemma's
      line break).
  """
  tasks = (
    ("label", label_suffix, record["answer"], lengths.label),
    ("rationale", rationale_suffix, record["rationale"], lengths.rationale),
  )
  start = [tokenizer.bos_id] if has_bos else []
  end = tokenizer.encode(prompt_end)
  pad = tokenizer.pad_id
  arrays = {}
  for task, suffix, target, target_length in tasks:
    prompt_ids = tokenizer.encode(join_prompt(record["question"], suffix))
    prompt_ids = [*start, *prompt_ids, *end]
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
    arrays[f"{task}_prompt"] = _padded(
      prompt_ids, lengths.prompt, np.int32, pad
    )
    arrays[f"{task}_target"] = _padded(target_ids, target_length, np.int32, pad)
    arrays[f"{task}_weights"] = _padded(
      [1.0] * len(target_ids), target_length, np.float32, 0
    )
  return arrays


def _padded(values, length: int, dtype, padding: int) -> np.ndarray:
  out = np.full(length, padding, dtype)
  out[: len(values)] = values
  return out
