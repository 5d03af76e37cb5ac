"""FLOPs of a PaLI's forward pass; `models.flops` says what counts."""

from collections.abc import Mapping
from typing import Any

from vpd_jax.models import flops
from vpd_jax.models.pali import encdec


def forward(
  options: Mapping[str, Any],
  *,
  prompt: int,
  target: int,
  image_px: int | None = None,
) -> flops.Forward:
  """FLOPs for one image with one prompt and one target.

  Args:
    options: keyword arguments of `model.Model`.
    prompt, target: tokens, padding among them.
    image_px: side of the image; None: the model's.

  Returns:
    "image", "encode", "decode" and "head" -> count. Cross-attention's keys
    and values are in "decode", where there are any.
  """
  image, patches = flops.vit(options, image_px or options["image_size"])
  vit_width = options["stem"][-1][1]
  image += flops.product(patches, vit_width, options["width"])
  return {"image": image} | text(
    options, encoded=patches + prompt, target=target
  )


def text(
  options: Mapping[str, Any], *, encoded: int, target: int
) -> flops.Forward:
  """ "encode", "decode" and "head" of a T5 over so many encoded tokens."""
  width, mlp_width = options["width"], options["mlp_width"]
  inner = options["heads"] * options["head_width"]
  is_gated, _ = encdec.MLPS[options.get("mlp", "gated_gelu")]
  matrices = 3 if is_gated else 2
  encode = (
    flops.product(encoded, width, 4 * inner + matrices * mlp_width)
    + flops.attention(encoded, encoded, inner)
  ) * options["encoder_depth"]
  decode = (
    flops.product(target, width, 6 * inner + matrices * mlp_width)
    + flops.attention(target, target, inner, is_causal=True)
    + flops.across(
      target, encoded, width, options["heads"], options["head_width"]
    )
  ) * options["decoder_depth"]
  head = flops.head(options, target)
  return {"encode": encode, "decode": decode, "head": head}


def parts(options: Mapping[str, Any]) -> flops.Patterns:
  """Part -> regular expressions of the names of its parameters."""
  is_tied = options.get("is_head_tied", False)
  return {
    "image": ("vit/", "qformer/", "projection/"),
    "embed": ("embedding/",),
    "encode": ("encoder/",),
    "decode": ("decoder/",),
    "head": ("embedding/" if is_tied else "head/",),
  }
