"""Tiny T5s and SigLIPs with random weights, and a PaLI of them. Needs torch."""

import numpy as np
import torch
import transformers

from tests.parity import references
from vpd_jax.checkpoint import hf
from vpd_jax.models.pali import hf_config, model, params

VOCAB = 96
# The other half of a PaLI, where a test looks at one half only.
IMAGE = dict(
  image_size=42, stem=((14, 32),), vit_depth=2, vit_heads=2, vit_mlp_width=48
)
TEXT = dict(
  vocab_size=VOCAB,
  width=24,
  heads=2,
  head_width=8,
  mlp_width=16,
  encoder_depth=1,
  decoder_depth=1,
)
# family -> (class, MLP, is the head tied, heads, their width). UL2's heads
# are wide, T5's many.
T5S = {
  "T5 1.0": ("T5", "relu", True, 4, 16),
  "T5 v1.1, Flan-T5": ("T5", "gated-gelu", False, 4, 16),
  "UL2": ("T5", "gated-silu", False, 2, 32),
  "mT5": ("MT5", "gated-gelu", False, 4, 16),
}
TIED = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
  "lm_head.weight",
)


def write_t5(folder, family, seed=0):
  """A folder of a tiny T5 as transformers 4 wrote them; the loaded model."""
  name, mlp, is_tied, heads, head_width = T5S[family]
  config = getattr(transformers, f"{name}Config")(
    vocab_size=VOCAB,
    d_model=32,
    d_kv=head_width,
    d_ff=48,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=heads,
    feed_forward_proj=mlp,
    decoder_start_token_id=0,
    dropout_rate=0.0,
  )
  cls = getattr(transformers, f"{name}ForConditionalGeneration")
  shapes = references.shapes(cls(config))
  for copy in TIED:
    shapes.pop(copy, None)
  if not is_tied:
    shapes["lm_head.weight"] = (VOCAB, 32)
  as_json = config.to_dict() | {"tie_word_embeddings": is_tied}
  as_json.pop("scale_decoder_outputs", None)  # Of transformers 5 only.

  def draw(name, shape, rng):
    is_norm = "norm" in name
    scale = None
    if name == "shared.weight":
      scale = 1.0
    elif name == "decoder.final_layer_norm.weight" and is_tied:
      # Of both signs: else a tied head would only repeat its input.
      is_norm, scale = False, 1.0
    elif name.endswith(".q.weight"):  # T5 does not divide its scores.
      scale = (head_width * 32) ** -0.5
    return references.draw(name, shape, rng, is_norm, scale)

  references.write(folder, as_json, shapes, draw, seed)
  return references.load(cls, folder, TIED)


def write_siglip(folder, prefix="", seed=0, has_head=False):
  """A folder of a tiny SigLIP image tower; the loaded model."""
  config = transformers.SiglipVisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=42,
    patch_size=14,
    vision_use_head=has_head,
  )
  cls = transformers.SiglipVisionModel
  shapes = {
    prefix + k.removeprefix("vision_model."): v
    for k, v in references.shapes(cls(config)).items()
  }

  def draw(name, shape, rng):
    is_scale = "norm" in name and name.endswith("weight")
    return references.draw(name, shape, rng, is_scale)

  references.write(folder, config.to_dict(), shapes, draw, seed)
  return references.load(cls, folder)


def ours(text=None, image=None, **changes):
  """Our model with the weights of those folders, the rest of its own.

  Returns:
    (graphdef, name -> array, keyword arguments of the model).
  """
  folders = {"text": text, "image": image}
  folders = {part: f for part, f in folders.items() if f is not None}
  options = TEXT | IMAGE | changes
  for folder in folders.values():
    options |= hf_config.options(hf.read_config(folder))
  sources = [(f, params.table(options, part)) for part, f in folders.items()]
  return *references.ours(model.Model, options, sources), options


def pixels(images):
  """uint8[B, height, width, 3] as a SigLIP processor's tensor."""
  scaled = torch.tensor(np.asarray(images)).float() / 127.5 - 1.0
  return scaled.permute(0, 3, 1, 2)
