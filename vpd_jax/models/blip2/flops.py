"""FLOPs of a BLIP-2's forward pass; `models.flops` says what counts."""

from collections.abc import Mapping
from typing import Any

from vpd_jax.models import flops
from vpd_jax.models.pali import flops as pali

parts = pali.parts


def forward(
  options: Mapping[str, Any],
  *,
  prompt: int,
  target: int,
  image_px: int | None = None,
) -> flops.Forward:
  """As `models.pali.flops.forward`; the Q-Former is part of "image"."""
  image_px = image_px or options["image_size"]
  patch, vit_width = options["patch_size"], options["vit_width"]
  patches = (image_px // patch) ** 2
  image = flops.product(patches, patch**2 * 3, vit_width)
  image += (
    flops.vit_block(1 + patches, vit_width, options["vit_mlp_width"])
    * options["vit_depth"]
  )
  image += _qformer(options, 1 + patches)
  queries = options["queries"]
  image += flops.product(queries, options["qformer_width"], options["width"])
  return {"image": image} | pali.text(
    options, encoded=queries + prompt, target=target
  )


def _qformer(options: Mapping[str, Any], seen: int) -> flops.Count:
  """Queries through all blocks; every second looks at `seen` tokens."""
  queries, width = options["queries"], options["qformer_width"]
  block = flops.vit_block(queries, width, options["qformer_mlp_width"])
  look = (
    flops.product(queries, width, 2 * width)
    + flops.product(seen, options["vit_width"], 2 * width)
    + flops.attention(queries, seen, width)
  )
  depth = options["qformer_depth"]
  return block * depth + look * (depth // 2)
