"""The image encoder of pictures of any shape: patches, a mask and a grid in.

`ViT` takes squares of one size. Here a batch has room for so many patches, and
each picture fills it with a grid of its own shape; `input.preprocess.naflex`
cuts them. The blocks and the names of arrays are those of `ViT`.

Source: SigLIP 2, arXiv:2502.14786, section 2.4.2; NaViT, arXiv:2307.06304.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers, stack, vit


class Patches(NamedTuple):
  """Pictures cut into patches.

  Attributes:
    pixels_BPI: uint8[B, P, side * side * 3], patches in reading order first.
    mask_BP: bool[B, P], False where padding follows.
    grid_B2: int32[B, 2], rows and columns of patches, their product the number
      of True in the mask.
  """

  pixels_BPI: jax.Array
  mask_BP: jax.Array
  grid_B2: jax.Array


def picture(batch: Mapping[str, jax.Array]) -> jax.Array | Patches:
  """What a batch has for the image tower: its squares, or its `Patches`.

  Args:
    batch: of `input.tasks.to_arrays`; the latter have image_mask and
      image_grid beside them.
  """
  if "image_grid" not in batch:
    return batch["image"]
  return Patches(batch["image"], batch["image_mask"], batch["image_grid"])


class Tokens(NamedTuple):
  """What the tower makes of `Patches`, for what follows.

  Attributes:
    x_BPD: float[B, P, D].
    mask_BP: bool[B, P], False where tokens are of padding.
  """

  x_BPD: jax.Array
  mask_BP: jax.Array


class NaFlexViT(nnx.Module):
  """A pre-norm vision transformer for pictures of mixed shapes.

  The table of positions is of one square grid; each picture's are resized
  from it, as torch's bilinear interpolation with antialias does. Tokens of
  padding come out too and mean nothing: what follows is given the mask.

  Args:
    patch_size: side of a patch in pixels.
    grid: rows, and columns, of the table of positions.
    width, depth, heads, mlp_width: of the transformer.
    is_scanned, remat: how blocks are run; see `stack.run`.
  """

  def __init__(
    self,
    *,
    patch_size: int,
    grid: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    is_scanned: bool = True,
    remat: str = "none",
    rngs: layers.Keys,
  ):
    self.grid = grid
    into = (None, "embed")
    self.stem = nnx.List(
      [layers.Linear(patch_size**2 * 3, width, into, rngs=rngs, use_bias=True)]
    )
    self.positions = layers.param(
      rngs.params(), (grid**2, width), into, vit.POSITION_STD
    )
    self.blocks = stack.make(
      lambda rngs: vit.Block(width, heads, mlp_width, rngs=rngs), depth, rngs
    )
    self.norm = layers.LayerNorm(width)
    self.is_scanned, self.remat = is_scanned, remat

  def __call__(
    self,
    image: Patches,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Tokens float[B, P, D] of patches; `key` is for dropout."""
    pixels_BPI, mask_BP, grid_B2 = image
    x_BPI = (pixels_BPI.astype(jnp.float32) / 127.5 - 1.0).astype(dtype)
    x_BPI = jnp.where(mask_BP[..., None], x_BPI, 0)  # The reference's padding.
    x_BPD = self.stem[0](x_BPI)
    positions_BPD = positions(self.positions[...], grid_B2, x_BPD.shape[1])
    x_BPD = x_BPD + positions_BPD.astype(dtype)
    return self.norm(vit.run_blocks(self, x_BPD, mask_BP[:, None], key))


def positions(
  table_ID: jax.Array, grid_B2: jax.Array, max_patches: int
) -> jax.Array:
  """A square table of positions, resized to each picture's own grid.

  The same as `resize.positions(..., "bilinear_antialias")` for every picture,
  with weights made on the device, where the grids are.

  Args:
    table_ID: float[I, D], of a square grid in reading order.
    grid_B2: int32[B, 2], rows and columns, each at least 1.
    max_patches: P.

  Returns:
    float32[B, P, D]; after rows * columns patches come repeats of the first.
  """
  side = round(table_ID.shape[0] ** 0.5)
  rows_B1, columns_B1 = grid_B2[:, :1], grid_B2[:, 1:]
  patch_1P = jnp.arange(max_patches)[None]
  patch_BP = jnp.where(patch_1P < rows_B1 * columns_B1, patch_1P, 0)
  by_row_BPI = _bilinear(patch_BP // columns_B1, rows_B1, side)
  by_column_BPI = _bilinear(patch_BP % columns_B1, columns_B1, side)
  weights_BPIJ = by_row_BPI[..., None] * by_column_BPI[..., None, :]
  return jnp.einsum(
    "BPI,ID->BPD",
    weights_BPIJ.reshape(*patch_BP.shape, side * side),
    table_ID.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )


def _bilinear(index_BP: jax.Array, size_B1: jax.Array, side: int) -> jax.Array:
  """What the points `index` of `size` take of each of `side` old ones.

  int32[B, P], int32[B, 1] -> float32[B, P, side].
  """
  scale_B1 = side / size_B1.astype(jnp.float32)
  centre_BP = (index_BP.astype(jnp.float32) + 0.5) * scale_B1 - 0.5
  covered_B11 = jnp.maximum(scale_B1, 1.0)[..., None]
  old_11I = jnp.arange(side, dtype=jnp.float32)[None, None]
  distance_BPI = jnp.abs(old_11I - centre_BP[..., None]) / covered_B11
  weights_BPI = jnp.maximum(0.0, 1.0 - distance_BPI)
  return weights_BPI / weights_BPI.sum(axis=-1, keepdims=True)
