"""Compares a folder of ours with the transformers folders that it equals.

The one module that imports torch, and only when it is called.
"""

import dataclasses
import os
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vpd_jax import step, trees
from vpd_jax.checkpoint import convert, families, model_folder
from vpd_jax.models import naflex

# Largest difference, as a share of the largest value, by the dtype of ours.
BOUNDS = types.MappingProxyType({"float32": 1e-4, "bfloat16": 5e-2})

_ROWS, _PROMPT, _TARGET = 2, 12, 6


def compare(
  ours: str | os.PathLike, folders: Mapping[str, str | os.PathLike]
) -> list[str]:
  """Runs both on random input, in float32 on this machine's first device.

  Args:
    ours: folder of ours.
    folders: part of the family -> transformers' folder.

  Returns:
    Lines of a report.

  Raises:
    ValueError: if torch is not installed; if outputs differ by more than
      rounding does.
  """
  try:
    import torch
    import transformers
  except ImportError as e:
    raise ValueError(
      f"--check needs {e.name}: pip install 'vpd_jax[parity]'. Without the"
      " flag the same conversion is done."
    ) from e
  saved = model_folder.read(ours)
  shapes = families.Shapes(saved.family, saved.options, saved.cls)
  table = model_folder.identity(shapes.named)
  arrays = convert.ours(saved.arrays, table, shapes.named, ours, shapes.axes)
  params = convert.load(arrays, shapes.named)
  model = step.merge(shapes.graphdef, trees.unflatten_like(shapes.tree, params))
  dtype = np.dtype(next(iter(saved.arrays.values())).dtype).name
  report = []
  for part, folder in folders.items():
    check = CHECKS.get((saved.family, part))
    if check is None:
      known = ", ".join(" ".join(names) for names in sorted(CHECKS))
      report.append(f"not compared: {part} of {saved.family}; known: {known}.")
      continue
    rng = np.random.default_rng(0)
    with torch.no_grad():
      theirs, found = check(
        _Pair(
          transformers, torch, folder, model, saved.options, saved.image, rng
        )
      )
    difference = float(np.abs(theirs - found).max() / np.abs(theirs).max())
    line = (
      f"{part}: outputs differ by {difference:.1e} of the largest value from"
      f" transformers {transformers.__version__}'s; bound {BOUNDS[dtype]:g}"
    )
    if not difference <= BOUNDS[dtype]:
      raise ValueError(f"{line}. {ours} is written, but is not equal.")
    report.append(line)
  return report


@dataclasses.dataclass(frozen=True)
class _Pair:
  """What a check is given.

  Attributes:
    transformers, torch: the modules.
    folder: of the reference.
    model: ours, with weights.
    options: of ours.
    resizing: of pictures, see `model_folder.IMAGE_KEYS`.
    rng: for input.
  """

  transformers: Any
  torch: Any
  folder: str | os.PathLike
  model: Any
  options: Mapping[str, Any]
  resizing: Mapping[str, Any]
  rng: np.random.Generator

  def theirs(self, cls: str) -> Any:
    """The reference's model, in float32."""
    loaded = getattr(self.transformers, cls).from_pretrained(self.folder)
    return loaded.float().eval()

  def ids(self, length: int, low: int, high: int) -> np.ndarray:
    """int32[_ROWS, length] of tokens low..high - 1."""
    return self.rng.integers(low, high, (_ROWS, length)).astype(np.int32)

  def long(self, ids: Any) -> Any:
    """The same as a tensor."""
    return self.torch.tensor(np.asarray(ids)).long()

  def image(self, tower: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random images as the reference's tower takes them, and as ours does.

    Patches that do not fill the reference's image leave pixels that only it
    is given: ours is resized to the same size, and cut. If ours is for images
    of another size, the tower is made to resize its positions.

    Raises:
      ValueError: if in training our pictures would be resized to another size.
    """
    size, patch = tower.config.image_size, tower.config.patch_size
    ours = self.options["image_size"]
    if ours != size // patch * patch:
      size = ours
      _resizes(tower)
    resized = self.resizing.get("resize_px", ours)
    if resized != size:
      raise ValueError(
        f"pictures would be resized to {resized} pixels for ours and to {size}"
        f" for {self.folder}: model.json's image.resize_px is not {size}."
      )
    image = self.rng.integers(0, 256, (_ROWS, size, size, 3)).astype(np.uint8)
    return image, image[:, :ours, :ours]

  def pixels(self, image: np.ndarray, mean: Any = 0.5, std: Any = 0.5) -> Any:
    """uint8[B, height, width, 3] -> a tensor as processors make it."""
    scaled = (image.astype(np.float32) / 255.0 - np.asarray(mean)) / std
    scaled = scaled.astype(np.float32).transpose(0, 3, 1, 2)
    return self.torch.tensor(np.ascontiguousarray(scaled))


def _resizes(tower: Any) -> None:
  """Has a tower of transformers resize its positions, whoever calls it."""
  forward = tower.forward

  def resizing(*args, **options):
    return forward(*args, **options | {"interpolate_pos_encoding": True})

  tower.forward = resizing


def _t5(pair: _Pair):
  """Logits of random tokens."""
  theirs, model = pair.theirs("AutoModelForSeq2SeqLM"), pair.model
  vocab = theirs.config.vocab_size
  prompt = pair.ids(_PROMPT, 2, vocab)
  target = pair.ids(_TARGET, 2, vocab)
  prompt[1, _PROMPT // 2 :] = 0
  expected = theirs(
    input_ids=pair.long(prompt),
    attention_mask=pair.long(prompt != 0),
    labels=pair.long(target),
  ).logits

  @jax.jit
  def logits(prompt, target):
    return model.logits(model.decode(*model.encode(None, prompt), target))

  return expected.numpy(), np.asarray(logits(prompt, target))


def _siglip(pair: _Pair):
  """Image tokens of random pixels."""
  if pair.options.get("has_naflex_vit", False):
    return _naflex(pair)
  theirs = pair.theirs("SiglipVisionModel")
  image, ours = pair.image(theirs)
  expected = theirs(pair.pixels(image)).last_hidden_state
  return expected.numpy(), np.asarray(jax.jit(pair.model.vit)(ours))


def _naflex(pair: _Pair):
  """Image tokens of patches of pictures of other shapes than the table's."""
  theirs = pair.theirs("Siglip2VisionModel")
  patch, rows = theirs.config.patch_size, 12
  grids = np.array([[3, 4], [5, 2]], np.int32)
  mask = np.arange(rows)[None] < grids.prod(axis=1)[:, None]
  pixels = pair.rng.integers(0, 256, (len(grids), rows, patch**2 * 3))
  pixels = pixels.astype(np.uint8)
  scaled = np.where(mask[..., None], pixels / np.float32(127.5) - 1, 0)
  expected = theirs(
    pair.torch.tensor(scaled.astype(np.float32)),
    pair.torch.tensor(mask.astype(np.int32)),
    pair.torch.tensor(grids),
  ).last_hidden_state
  found = jax.jit(pair.model.vit)(
    naflex.Patches(*map(jax.numpy.asarray, (pixels, mask, grids)))
  )
  return expected.numpy()[mask], np.asarray(found)[mask]


def _paligemma(pair: _Pair):
  """Logits of a target after random pixels and tokens."""
  theirs = pair.theirs("PaliGemmaForConditionalGeneration")
  image, ours = pair.image(theirs.model.vision_tower)
  holder = theirs.config.image_token_id
  top = min(holder, theirs.config.text_config.vocab_size)
  prompt, target = pair.ids(_PROMPT, 2, top), pair.ids(_TARGET, 2, top)
  holders = np.full((_ROWS, pair.model.vit.grid**2), holder, np.int32)
  ids = np.concatenate([holders, prompt, target], axis=1)
  is_target = np.arange(ids.shape[1]) >= ids.shape[1] - _TARGET
  is_target = np.broadcast_to(is_target, ids.shape)
  # With labels it masks as in training: a target sees no later token.
  expected = theirs(
    input_ids=pair.long(ids),
    attention_mask=pair.long(np.ones_like(ids)),
    token_type_ids=pair.long(is_target),
    pixel_values=pair.pixels(image),
    labels=pair.long(np.where(is_target, ids, -100)),
  ).logits[:, -_TARGET - 1 : -1]
  found = jax.jit(pair.model)(ours, prompt, target)
  return expected.numpy(), np.asarray(found)


def _t5gemma2(pair: _Pair):
  """Logits of a target after random pixels and tokens."""
  theirs = pair.theirs("T5Gemma2ForConditionalGeneration")
  encoder, model = theirs.get_encoder(), pair.model
  image, ours = pair.image(encoder.vision_tower)
  projector = encoder.multi_modal_projector
  projector.patches_per_image = model.vit.grid
  projector.avg_pool = pair.torch.nn.AvgPool2d(model.pool_side)
  special = (*model.image_start[1:], *model.image_end, model.image_token_id)
  top = min(special)
  prompt, target = pair.ids(_PROMPT, 4, top), pair.ids(_TARGET, 4, top)
  holders = [model.image_token_id] * pair.options["image_tokens"]
  before = [*model.image_start, *holders, *model.image_end]
  ids = np.concatenate([np.tile(before, (_ROWS, 1)), prompt], axis=1)
  expected = theirs(
    input_ids=pair.long(ids),
    attention_mask=pair.long(np.ones_like(ids)),
    pixel_values=pair.pixels(image),
    labels=pair.long(target),
  ).logits
  return expected.numpy(), np.asarray(jax.jit(model)(ours, prompt, target))


def _blip2(pair: _Pair):
  """Logits of a target after random pixels and tokens."""
  theirs, model = pair.theirs("Blip2ForConditionalGeneration"), pair.model
  image, ours = pair.image(theirs.vision_model)
  holder = theirs.config.image_token_index
  top = min(holder, theirs.config.text_config.vocab_size)
  prompt, target = pair.ids(_PROMPT, 2, top), pair.ids(_TARGET, 2, top)
  holders = np.full((_ROWS, pair.options["queries"]), holder, np.int32)
  ids = np.concatenate([holders, prompt], axis=1)
  expected = theirs(
    input_ids=pair.long(ids),
    attention_mask=pair.long(np.ones_like(ids)),
    pixel_values=pair.pixels(image, model.vit.image_mean, model.vit.image_std),
    labels=pair.long(target),
  ).logits
  return expected.numpy(), np.asarray(jax.jit(model)(ours, prompt, target))


def _blip2_retrieval(pair: _Pair):
  """Logits of matching and cosines of random pixels and tokens, joined."""
  theirs, model = pair.theirs("Blip2ForImageTextRetrieval"), pair.model
  image, ours = pair.image(theirs.vision_model)
  holder = theirs.config.image_token_index
  vocab = theirs.config.qformer_config.vocab_size
  text = pair.ids(_PROMPT, 2, vocab if holder is None else min(holder, vocab))
  ids = text
  if holder is not None:
    holders = np.full((_ROWS, pair.options["queries"]), holder, np.int32)
    ids = np.concatenate([holders, text], axis=1)
  expected = [
    theirs(
      input_ids=pair.long(ids),
      attention_mask=pair.long(np.ones_like(ids)),
      pixel_values=pair.pixels(
        image, model.vit.image_mean, model.vit.image_std
      ),
      use_image_text_matching_head=has_head,
    ).logits_per_image
    for has_head in (True, False)
  ]

  @jax.jit
  def scores(image, text):
    image_BPD = model.encode_image(image)
    features = model.image_features(model.see(image_BPD))
    cosines = model.similarity(features, model.text_features(text))
    return [model.match_logits(image_BPD, text), cosines]

  return (
    np.concatenate([x.numpy() for x in expected], axis=1),
    np.concatenate(scores(ours, text), axis=1),
  )


# (family, part) -> what computes (theirs, ours).
CHECKS: Mapping[tuple[str, str], Callable[[_Pair], tuple[Any, Any]]] = (
  types.MappingProxyType(
    {
      ("pali", "text"): _t5,
      ("pali", "image"): _siglip,
      ("paligemma", "model"): _paligemma,
      ("t5gemma2", "model"): _t5gemma2,
      ("blip2", "model"): _blip2,
      ("blip2", "retrieval"): _blip2_retrieval,
    }
  )
)
