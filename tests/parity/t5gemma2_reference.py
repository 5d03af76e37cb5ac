"""Tiny T5Gemma 2 of transformers with random weights. Needs torch."""

import numpy as np
import transformers

from tests.parity import references
from vpd_jax.models.t5gemma2 import hf_config, model, params

VOCAB = 96
START, END, IMAGE = 93, 94, 95  # Of an image; where its tokens go.
TIED = (
  "model.decoder.embed_tokens.weight",
  "model.decoder.embed_tokens.eoi_embedding",
  "lm_head.out_proj.weight",
)
# Of 42 pixels in patches of 7: 6 x 6, averaged to 2 x 2.
IMAGE_SIZE, IMAGE_TOKENS = 42, 4
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def config(depths=(3, 2), is_stretched=False, logit_softcap=None):
  """config.json. Not square anywhere, so that no transpose goes unseen."""
  ropes = {
    LOCAL: {"rope_type": "default", "rope_theta": 100.0},
    GLOBAL: {"rope_type": "default", "rope_theta": 1000.0},
  }
  if is_stretched:
    ropes[GLOBAL] |= {"rope_type": "linear", "factor": 8.0}

  def stack(depth):
    return dict(
      vocab_size=VOCAB,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=depth,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=16,
      sliding_window=5,
      layer_types=[GLOBAL if n % 2 else LOCAL for n in range(depth)],
      query_pre_attn_scalar=12,
      rope_parameters=ropes,
    )

  tower = dict(
    model_type="siglip_vision_model",
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=IMAGE_SIZE,
    patch_size=7,
    vision_use_head=False,
  )
  return transformers.T5Gemma2Config(
    encoder=dict(
      text_config=stack(depths[0]),
      vision_config=tower,
      mm_tokens_per_image=IMAGE_TOKENS,
      boi_token_index=START,
      eoi_token_index=END,
    ),
    decoder=stack(depths[1]) | dict(final_logit_softcapping=logit_softcap),
    image_token_index=IMAGE,
    architectures=["T5Gemma2ForConditionalGeneration"],
  ).to_dict()


def write(folder, seed=0, **changes):
  """Writes a folder and returns transformers' model of it."""
  cls = transformers.T5Gemma2ForConditionalGeneration
  content = config(**changes)
  empty = cls(transformers.T5Gemma2Config.from_dict(content))
  shapes = references.shapes(empty)
  held = {name: s for name, s in shapes.items() if name not in TIED}

  def draw(name, shape, rng):
    scale = shape[0] ** -0.5 if "mm_input_projection" in name else None
    near_one = "vision_tower" in name and "norm" in name
    near_one = near_one and name.endswith("weight")
    return references.draw(name, shape, rng, near_one, scale)

  references.write(folder, content, held, draw, seed)
  return references.load(cls, folder, TIED)


def ours(folder, is_scanned=True):
  """(graphdef, our name -> array, options) of such a folder."""
  options = hf_config.options(references.hf.read_config(folder))
  options["is_scanned"] = is_scanned
  sources = [(folder, params.table(options, "model"))]
  return *references.ours(model.Model, options, sources), options


def with_image(prompt):
  """Ids that stand for an image, then those of the prompt."""
  before = [model.BOS_ID, START, *[IMAGE] * IMAGE_TOKENS, END]
  return np.concatenate([np.tile(before, (len(prompt), 1)), prompt], 1)
