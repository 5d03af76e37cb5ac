"""FLOPs of a T5Gemma 2's forward pass; `models.flops` says what counts."""

import inspect
from collections.abc import Mapping
from typing import Any

from vpd_jax.models import flops
from vpd_jax.models.t5gemma2 import model


def forward(
  options: Mapping[str, Any],
  *,
  prompt: int,
  target: int,
  image_px: int | None = None,
) -> flops.Forward:
  """As `models.pali.flops.forward`; there is no cross-attention apart.

  The decoder's keys and values of encoded tokens are in "decode".
  """
  image, _ = flops.vit(options, image_px or options["image_size"])
  width, mlp_width = options["width"], options["mlp_width"]
  image_tokens = options["image_tokens"]
  image += flops.product(image_tokens, options["stem"][-1][1], width)
  inner = options["heads"] * options["head_width"]
  inner_kv = options["kv_heads"] * options["head_width"]
  encoded = image_tokens + _around(options) + prompt
  projections = 2 * inner + 2 * inner_kv + 3 * mlp_width
  encode = (
    flops.product(encoded, width, projections)
    + flops.attention(encoded, encoded, inner)
  ) * options["encoder_depth"]
  decode = (
    flops.product(target, width, projections)
    + flops.product(encoded, width, 2 * inner_kv)
    + flops.attention(target, target, inner, is_causal=True)
    + flops.attention(target, encoded, inner)
  ) * options["decoder_depth"]
  head = flops.head(options, target)
  return {"image": image, "encode": encode, "decode": decode, "head": head}


def parts(options: Mapping[str, Any]) -> flops.Patterns:
  """Part -> regular expressions of the names of its parameters."""
  del options
  return {
    "image": ("vit/", "image_norm/", "projection/"),
    "embed": ("embedding/", "end_of_image$"),
    "encode": ("encoder/",),
    "decode": ("decoder/",),
    "head": ("embedding/",),
  }


def _around(options: Mapping[str, Any]) -> int:
  """Tokens before and after an image's."""
  defaults = inspect.signature(model.Model.__init__).parameters
  return sum(
    len(options.get(name, defaults[name].default))
    for name in ("image_start", "image_end")
  )
