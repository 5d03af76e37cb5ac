"""FLOPs of a PaliGemma's forward pass; `models.flops` says what counts."""

from collections.abc import Mapping
from typing import Any

from vpd_jax.models import flops


def forward(
  options: Mapping[str, Any],
  *,
  prompt: int,
  target: int,
  image_px: int | None = None,
) -> flops.Forward:
  """As `models.pali.flops.forward`.

  "encode" is the prefix (image and prompt) in the decoder's blocks, which
  sees all of itself; "decode" is the target behind it.
  """
  image, patches = flops.vit(options, image_px or options["image_size"])
  width = options["width"]
  image += flops.product(patches, options["stem"][-1][1], width)
  inner = options["heads"] * options["head_width"]
  inner_kv = options["kv_heads"] * options["head_width"]
  projections = 2 * inner + 2 * inner_kv + 3 * options["mlp_width"]
  prefix = patches + prompt
  encode = (
    flops.product(prefix, width, projections)
    + flops.attention(prefix, prefix, inner)
  ) * options["depth"]
  decode = (
    flops.product(target, width, projections)
    + flops.attention(target, target, inner, is_causal=True)
    + flops.attention(target, prefix, inner)
  ) * options["depth"]
  head = flops.head(options, target)
  return {"image": image, "encode": encode, "decode": decode, "head": head}


def parts(options: Mapping[str, Any]) -> flops.Patterns:
  """Part -> regular expressions of the names of its parameters."""
  del options
  return {
    "image": ("vit/", "projection/"),
    "embed": ("embedding/",),
    "encode": ("decoder/",),
    "decode": ("decoder/",),
    "head": ("embedding/",),
  }
