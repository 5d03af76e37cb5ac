"""A model's weights for images of another size: its positions are resized.

    resolution.check(options, 448)
    options, arrays = resolution.change("pali", options, arrays, 448)

All else of a model is the same for images of any size. A family whose table
holds more than a square of patches has `resize_positions` in its params.py.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vpd_jax.checkpoint import families, source
from vpd_jax.checkpoint.source import Array
from vpd_jax.models import resize

TABLE = "vit/positions"


def check(options: Mapping[str, Any], image_px: int) -> None:
  """Can a model of these options take images of that side?

  Raises:
    ValueError: if it cannot, or takes any; says the nearest that it can.
  """
  if options.get("has_naflex_vit", False):
    raise ValueError(
      f"image_px={image_px}: this image tower is a NaFlex, which takes images"
      " of any size as it is, and resizes its positions for each."
    )
  patch, tokens = _patch_px(options), options.get("image_tokens")
  step, why = patch, f"patches have {patch} pixels"
  if tokens is not None:
    side = math.isqrt(tokens)
    step *= side
    why += f", averaged to {side} x {side} tokens"
  if image_px < 1 or image_px % step:
    nearest = max(1, round(image_px / step)) * step
    raise ValueError(
      f"image_px={image_px} is not a multiple of {step}: {why}; the nearest is"
      f" {nearest}."
    )


def change(
  family: str,
  options: Mapping[str, Any],
  arrays: Mapping[str, Array],
  image_px: int,
  method: str = "bicubic",
) -> tuple[dict[str, Any], dict[str, Array]]:
  """Options and arrays of the same model for images of another side.

  Args:
    family: a folder of `vpd_jax.models`.
    options: of one of its classes.
    arrays: all of its arrays by our names; only the table is read, computed
      with in float32, and held.
    image_px: side of the images.
    method: of `resize.METHODS`: what the reference that weights come from
      does; "bicubic" is transformers'. For a square table of patches.

  Raises:
    ValueError: as `check`; if the table has a value that is not finite.
  """
  check(options, image_px)
  before = arrays[TABLE]
  table_PD = source.finite(before, source.full(before.shape))
  table_PD = jnp.asarray(table_PD.astype(np.float32))
  grid = image_px // _patch_px(options)
  params = families.module(family, "params")
  if hasattr(params, "resize_positions"):
    resized_PD = params.resize_positions(table_PD, grid)
  else:
    resized_PD = _square(table_PD, grid, method)
  after = source.in_memory(np.asarray(resized_PD), f"{before.where}, resized")
  return {**options, "image_size": image_px}, {**arrays, TABLE: after}


def _square(table_PD: jax.Array, grid: int, method: str) -> jax.Array:
  side = math.isqrt(table_PD.shape[0])
  return resize.positions(table_PD, (side, side), (grid, grid), method)


def _patch_px(options: Mapping[str, Any]) -> int:
  if "stem" in options:
    return math.prod(side for side, _ in options["stem"])
  return options["patch_size"]
