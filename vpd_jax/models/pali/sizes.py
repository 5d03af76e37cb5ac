"""Named sizes of PaLI; a config picks one and may override single values."""

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

SIZES: dict[str, dict[str, Any]] = {"world": WORLD, "debug": DEBUG}


def get(size: str) -> dict[str, Any]:
  """Keyword arguments of `model.Model`, but for the vocabulary.

  Raises:
    KeyError: for an unknown name; lists those that exist.
  """
  if size not in SIZES:
    raise KeyError(f"pali has no size {size!r}; it has {sorted(SIZES)}.")
  return dict(SIZES[size])
