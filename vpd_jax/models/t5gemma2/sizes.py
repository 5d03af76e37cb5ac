"""Named sizes of T5Gemma 2; a config picks one and may override values."""

import types
from collections.abc import Mapping
from typing import Any

# SigLIP So400m at 896 pixels: 64 x 64 patches, averaged to 16 x 16 tokens.
_TOWER = dict(
  image_size=896,
  stem=((14, 1152),),
  vit_depth=27,
  vit_heads=16,
  vit_mlp_width=4304,
  image_tokens=256,
)


def _stacks(width, mlp_width, depth, heads, kv_heads, window) -> dict[str, Any]:
  return _TOWER | dict(
    width=width,
    heads=heads,
    kv_heads=kv_heads,
    head_width=256,
    mlp_width=mlp_width,
    encoder_depth=depth,
    decoder_depth=depth,
    window=window,
    rope_stretch_global=8.0,
    vocab_multiple=64,
  )


# As small as still has every part, for tests.
DEBUG = dict(
  image_size=48,
  stem=((12, 16),),
  vit_depth=1,
  vit_heads=2,
  vit_mlp_width=32,
  image_tokens=4,
  width=16,
  heads=4,
  kv_heads=2,
  head_width=8,
  mlp_width=32,
  encoder_depth=2,
  decoder_depth=2,
  window=4,
  query_width=8,
  global_every=2,
  image_start=(2, 3),
  image_end=(4,),
  end_of_image_id=4,
  image_token_id=5,
  is_scanned=False,
)

# Source: Gemma Team, arXiv:2503.19786, table 1; config.json of the weights.
SIZES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "debug": DEBUG,
    "270m_270m": _stacks(640, 2048, 18, 4, 1, 512),
    "1b_1b": _stacks(1152, 6912, 26, 4, 1, 512),
    "4b_4b": _stacks(2560, 10240, 34, 8, 4, 1024),
  }
)


def get(size: str) -> dict[str, Any]:
  """Keyword arguments of `model.Model`, but for the vocabulary.

  Raises:
    KeyError: for an unknown name; lists those that exist.
  """
  if size not in SIZES:
    raise KeyError(f"t5gemma2 has no size {size!r}; it has {sorted(SIZES)}.")
  return dict(SIZES[size])
