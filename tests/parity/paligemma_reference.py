"""Tiny PaliGemmas with random weights. Needs torch."""

import numpy as np
import torch
import transformers

from tests.parity import references
from vpd_jax.checkpoint import hf
from vpd_jax.models.paligemma import hf_config, model, params

VOCAB, IMAGE_TOKEN = 97, 96
TOKENS = 9  # Of an image: 42 pixels in patches of 14.
WINDOW = 6  # Fewer than an image has.
TIED = ("lm_head.weight",)
# A file's names in each version of transformers, from those of the latest:
# (replaced, by) of what names begin with.
SPELLINGS = {
  "5": (),
  "4.52": (("model.vision_tower.", "model.vision_tower.vision_model."),),
  "4.41, and on the hub": (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
  ),
}
# family -> fields of text_config. Groups of 2 of 4 heads, one for all, and
# one each; scores divided by another width than that of heads.
TEXTS = {
  "PaliGemma 1": dict(model_type="gemma", num_key_value_heads=1),
  "PaliGemma 2": dict(
    model_type="gemma2",
    num_key_value_heads=2,
    sliding_window=WINDOW,
    query_pre_attn_scalar=11,
    # So low that they matter to scores and logits of unit scale.
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
  ),
}


def write(folder, family, seed=0, version="5", **text):
  """A folder of a tiny PaliGemma; the loaded model."""
  text = TEXTS[family] | text
  config = transformers.PaliGemmaConfig(
    text_config=dict(
      vocab_size=VOCAB,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=3,
      num_attention_heads=4,
      head_dim=16,
      **text,
    ),
    vision_config=dict(
      model_type="siglip_vision_model",
      hidden_size=24,
      intermediate_size=40,
      num_hidden_layers=2,
      num_attention_heads=2,
      image_size=42,
      patch_size=14,
      vision_use_head=False,
    ),
    image_token_index=IMAGE_TOKEN,
    projection_dim=32,
    hidden_size=32,
    vocab_size=VOCAB,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
  )
  cls = transformers.PaliGemmaForConditionalGeneration
  shapes = references.shapes(cls(config))
  for name in TIED:
    shapes.pop(name)
  for new, old in SPELLINGS[version]:
    shapes = {
      old + n.removeprefix(new) if n.startswith(new) else n: shape
      for n, shape in shapes.items()
    }

  def draw(name, shape, rng):
    # Vectors are multiplied by sqrt(width), and are the head as well.
    scale = 32**-0.5 if "embed_tokens" in name else None
    is_torch_norm = "vision_tower" in name and "norm" in name
    return references.draw(
      name, shape, rng, is_torch_norm and name.endswith("weight"), scale
    )

  references.write(folder, config.to_dict(), shapes, draw, seed)
  return references.load(cls, folder, TIED)


def ours(folder, **changes):
  """Our model with the weights of a folder.

  Returns:
    (graphdef, name -> array, keyword arguments of the model).
  """
  options = hf_config.options(hf.read_config(folder)) | changes
  sources = [(folder, params.table(options, "model"))]
  return *references.ours(model.Model, options, sources), options


def inputs(images, prompt, target=None):
  """Theirs from ours: padding of prompts goes to the left.

  Args:
    images: uint8[B, height, width, 3].
    prompt: int32[B, T], padded with 0 on the right.
    target: int32[B, U], so too; None for generation.

  Returns:
    Keyword arguments; with labels where there is a target.
  """
  rows = []
  for text in prompt:
    real = text[text != 0]
    padding = np.zeros(len(text) - len(real), np.int32)
    image = np.full(TOKENS, IMAGE_TOKEN, np.int32)
    rows.append(np.concatenate([padding, image, real]))
  ids = torch.tensor(np.stack(rows)).long()
  out = dict(
    input_ids=ids,
    attention_mask=(ids != 0).long(),
    token_type_ids=torch.zeros_like(ids),
    pixel_values=pixels(images),
  )
  if target is None:
    return out
  suffix = torch.tensor(target).long()
  labels = suffix.masked_fill(suffix == 0, -100)
  more = dict(
    input_ids=suffix,
    attention_mask=(suffix != 0).long(),
    token_type_ids=torch.ones_like(suffix),
  )
  joined = {n: torch.cat([out[n], more[n]], dim=1) for n in more}
  labels = torch.cat([torch.full_like(ids, -100), labels], dim=1)
  return out | joined | dict(labels=labels)


def logits(outputs, target):
  """float32[B, U, V] of theirs that predict each target token."""
  found = outputs.logits[:, -target.shape[1] - 1 : -1]
  return found.detach().numpy()


def pixels(images):
  """uint8[B, height, width, 3] as a SigLIP processor's tensor."""
  scaled = torch.tensor(np.asarray(images)).float() / 127.5 - 1.0
  return scaled.permute(0, 3, 1, 2)
