"""Named sizes of PaLI; a config picks one and may override single values.

Open compositions are named TOWER_STACK after the weights that fit them: the
image towers are SigLIP's and SigLIP 2's, the stacks T5's. T5 v1.1, Flan-T5 and
mT5 have one set of shapes; how many tokens there are, the tokenizer says.
"""

import types
from collections.abc import Mapping
from typing import Any

# The embedded world's student: 16-pixel patches of a 48-pixel image.
WORLD = dict(
  image_size=48,
  stem=((4, 48), (2, 96), (2, 96)),
  vit_depth=1,
  vit_heads=4,
  vit_mlp_width=192,
  width=96,
  heads=4,
  head_width=24,
  mlp_width=192,
  encoder_depth=2,
  decoder_depth=2,
  is_attention_scaled=True,
  is_scanned=False,
)
# As small as still has every part, for tests.
DEBUG = WORLD | dict(
  stem=((16, 16),),
  vit_heads=2,
  vit_mlp_width=32,
  width=16,
  heads=2,
  head_width=8,
  mlp_width=32,
  encoder_depth=1,
  decoder_depth=1,
)


def _tower(patch, width, depth, heads, mlp_width) -> dict[str, Any]:
  return dict(
    image_size=224,
    stem=((patch, width),),
    vit_depth=depth,
    vit_heads=heads,
    vit_mlp_width=mlp_width,
  )


def _stack(
  width, mlp_width, depth, heads, head_width=64, mlp="gated_gelu"
) -> dict[str, Any]:
  return dict(
    width=width,
    heads=heads,
    head_width=head_width,
    mlp_width=mlp_width,
    encoder_depth=depth,
    decoder_depth=depth,
    vocab_multiple=128,
    mlp=mlp,
  )


# Source: google-research/big_vision, models/vit.py, decode_variant.
SIGLIP_B16 = _tower(16, 768, 12, 12, 3072)
SIGLIP_L16 = _tower(16, 1024, 24, 16, 4096)
SIGLIP_SO400M = _tower(14, 1152, 27, 16, 4304)
SIGLIP_G16 = _tower(16, 1536, 40, 16, 6144)
VIT_G = _tower(14, 1664, 48, 16, 8192)
VIT_E = _tower(14, 1792, 56, 16, 15360)
# Source: Dehghani et al., arXiv:2302.05442, table 1.
VIT_22B = _tower(14, 6144, 48, 48, 24576) | dict(has_parallel_vit=True)

# Source: Raffel et al., arXiv:1910.10683; the config.json of each checkpoint.
T5_1_0_SMALL = _stack(512, 2048, 6, 8, mlp="relu") | dict(is_head_tied=True)
T5_1_0_BASE = _stack(768, 3072, 12, 12, mlp="relu") | dict(is_head_tied=True)
T5_SMALL = _stack(512, 1024, 8, 6)
T5_BASE = _stack(768, 2048, 12, 12)
T5_LARGE = _stack(1024, 2816, 24, 16)
T5_XL = _stack(2048, 5120, 24, 32)
T5_XXL = _stack(4096, 10240, 24, 64)
# Source: Tay et al., UL2, arXiv:2205.05131.
UL2_20B = _stack(4096, 16384, 32, 16, head_width=256, mlp="gated_silu")
# PaLI-X publishes 32B parameters and 50 + 50 layers; UL2's widths give that.
UL2_32B = _stack(4096, 16384, 50, 16, head_width=256, mlp="gated_silu")

SIZES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "world": WORLD,
    "debug": DEBUG,
    "b16_t5_1_0_small": SIGLIP_B16 | T5_1_0_SMALL,
    "b16_t5_1_0_base": SIGLIP_B16 | T5_1_0_BASE,
    "b16_flan_t5_small": SIGLIP_B16 | T5_SMALL,
    "b16_flan_t5_base": SIGLIP_B16 | T5_BASE,
    "l16_flan_t5_large": SIGLIP_L16 | T5_LARGE,
    "so400m_flan_t5_large": SIGLIP_SO400M | T5_LARGE,
    "so400m_flan_t5_xl": SIGLIP_SO400M | T5_XL,
    "so400m_flan_t5_xxl": SIGLIP_SO400M | T5_XXL,
    "so400m_mt5_xl": SIGLIP_SO400M | T5_XL,
    "so400m_ul2_20b": SIGLIP_SO400M | UL2_20B,
    "g16_flan_t5_xl": SIGLIP_G16 | T5_XL,
    # The PaLIs; their weights are not public. PaLI-3's language side is a 3B
    # UL2 of unpublished shape: T5 XL's stands in. Chen et al.,
    # arXiv:2310.09199, arXiv:2305.18565 and arXiv:2209.06794.
    "pali3_5b": VIT_G | T5_XL | dict(image_size=812),
    "palix_55b": VIT_22B | UL2_32B | dict(image_size=756),
    "pali_17b": VIT_E | T5_XXL | dict(image_size=588),
  }
)


def get(size: str) -> dict[str, Any]:
  """Keyword arguments of `model.Model`, but for the vocabulary.

  Raises:
    KeyError: for an unknown name; lists those that exist.
  """
  if size not in SIZES:
    raise KeyError(f"pali has no size {size!r}; it has {sorted(SIZES)}.")
  return dict(SIZES[size])
