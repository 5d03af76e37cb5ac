"""Named sizes of BLIP-2; a config picks one and may override single values.

Those whose name has a language model are of `model.Model`, those with "itm" of
`retrieval.Retrieval`. An image of 364 or 480 pixels is `image_size=364`, with
positions that `vision.resize_positions` made.
"""

import types
from collections.abc import Mapping
from typing import Any

from vpd_jax.models.pali import sizes as pali

# Source: the config.json of Salesforce/blip2-flan-t5-xl and blip2-itm-vit-g.
EVA_G = dict(
  image_size=224,
  patch_size=14,
  vit_width=1408,
  vit_depth=39,
  vit_heads=16,
  vit_mlp_width=6144,
)
QFORMER = dict(
  queries=32,
  qformer_width=768,
  qformer_depth=12,
  qformer_heads=12,
  qformer_mlp_width=3072,
)
BERT = dict(positions=512, feature_width=256)
# As small as still has every part, for tests.
DEBUG_EYES = dict(
  image_size=32,
  patch_size=16,
  vit_width=24,
  vit_depth=1,
  vit_heads=2,
  vit_mlp_width=32,
  queries=3,
  qformer_width=16,
  qformer_depth=2,
  qformer_heads=2,
  qformer_mlp_width=32,
  is_scanned=False,
)
DEBUG_T5 = dict(
  width=16,
  heads=2,
  head_width=8,
  mlp_width=32,
  encoder_depth=1,
  decoder_depth=1,
)

SIZES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "debug": DEBUG_EYES | DEBUG_T5,
    "debug_itm": DEBUG_EYES | dict(positions=12, feature_width=8),
    "blip2_flan_t5_xl": EVA_G | QFORMER | pali.T5_XL | dict(is_gelu_exact=True),
    "blip2_flan_t5_xxl": (
      EVA_G | QFORMER | pali.T5_XXL | dict(is_gelu_exact=True)
    ),
    "blip2_itm_vit_g": EVA_G | QFORMER | BERT,
  }
)


def get(size: str) -> dict[str, Any]:
  """Keyword arguments of the model, but for the vocabulary.

  Raises:
    KeyError: for an unknown name; lists those that exist.
  """
  if size not in SIZES:
    raise KeyError(f"blip2 has no size {size!r}; it has {sorted(SIZES)}.")
  return dict(SIZES[size])
