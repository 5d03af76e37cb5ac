"""Shapes and random inputs that both sides of models.py use."""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

PROMPT, TARGET, NEW_TOKENS = 32, 32, 32
IMAGE_PX = 224

# About 60M parameters each. As config.json has them.
SIGLIP = dict(
  hidden_size=384,
  intermediate_size=1536,
  num_hidden_layers=4,
  num_attention_heads=6,
  image_size=IMAGE_PX,
  patch_size=16,
  vision_use_head=False,
)
T5 = dict(
  vocab_size=32128,
  d_model=512,
  d_kv=64,
  d_ff=1024,
  num_layers=4,
  num_decoder_layers=4,
  num_heads=8,
  feed_forward_proj="gated-gelu",
  decoder_start_token_id=0,
  dropout_rate=0.0,
)
GEMMA_TEXT = dict(
  vocab_size=65536,
  hidden_size=384,
  intermediate_size=1536,
  num_hidden_layers=6,
  num_attention_heads=4,
  num_key_value_heads=1,
  head_dim=96,
  sliding_window=512,
  query_pre_attn_scalar=96,
  max_position_embeddings=1024,
  layer_types=["sliding_attention"] * 5 + ["full_attention"],
)
BOI, EOI, IMAGE_TOKEN, IMAGE_TOKENS = 3, 4, 5, 49


def inputs(vocab: int, batch: int) -> dict[str, np.ndarray]:
  """Random images, prompts and targets without padding."""
  rng = np.random.default_rng(0)

  def tokens(length):
    return rng.integers(10, vocab - 10, (batch, length)).astype(np.int32)

  shape = (batch, IMAGE_PX, IMAGE_PX, 3)
  return dict(
    image=rng.integers(0, 256, shape).astype(np.uint8),
    prompt=tokens(PROMPT),
    target=tokens(TARGET),
  )


def serve(answers: dict[str, Callable[..., dict[str, Any]]]) -> None:
  """Answers the parent's lines until it closes."""
  for line in sys.stdin:
    name, *words = json.loads(line)
    print("@" + json.dumps(answers[name](*words)), flush=True)
