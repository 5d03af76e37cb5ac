"""Named sizes of PaliGemma; a config picks one and may override values.

Names are those of the checkpoints: family, size and image side.
"""

import types
from collections.abc import Mapping
from typing import Any

# Source: google-research/big_vision, models/vit.py, decode_variant.
_SO400M = dict(
  stem=((14, 1152),), vit_depth=27, vit_heads=16, vit_mlp_width=4304
)
# Gemma 2 has these too. Its window does nothing to fewer tokens.
_GEMMA2 = dict(
  has_post_norms=True,
  attention_softcap=50.0,
  logits_softcap=30.0,
  window=4096,
)


def _gemma(
  width, depth, heads, kv_heads, head_width, mlp_width, **more
) -> dict[str, Any]:
  return dict(
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    head_width=head_width,
    mlp_width=mlp_width,
    vocab_multiple=64,
    **more,
  )


# Source: google-research/big_vision, models/ppp/gemma.py, get_config. Sizes
# are named after all that they hold: Gemma 2's 2B gives PaliGemma 2's 3B.
_MODELS = {
  "paligemma_3b": _gemma(2048, 18, 8, 1, 256, 16384),
  "paligemma2_3b": _gemma(2304, 26, 8, 4, 256, 9216, **_GEMMA2),
  "paligemma2_10b": _gemma(3584, 42, 16, 8, 256, 14336, **_GEMMA2),
  "paligemma2_28b": _gemma(
    4608, 46, 32, 16, 128, 36864, query_width=144, **_GEMMA2
  ),
}
# As small as still has every part of a PaliGemma 2, for tests.
DEBUG = dict(
  image_size=48,
  stem=((16, 16),),
  vit_depth=1,
  vit_heads=2,
  vit_mlp_width=32,
  width=16,
  depth=2,
  heads=2,
  kv_heads=1,
  head_width=8,
  mlp_width=32,
  is_scanned=False,
) | (_GEMMA2 | dict(window=8))

SIZES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    f"{name}_{side}": dict(image_size=side) | _SO400M | options
    for name, options in _MODELS.items()
    for side in (224, 448, 896)
  }
  | {"debug": DEBUG}
)


def get(size: str) -> dict[str, Any]:
  """Keyword arguments of `model.Model`, but for the vocabulary.

  Raises:
    KeyError: for an unknown name; lists those that exist.
  """
  if size not in SIZES:
    raise KeyError(f"paligemma has no size {size!r}; it has {sorted(SIZES)}.")
  return dict(SIZES[size])
