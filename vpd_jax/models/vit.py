"""The image encoder: pixels to un-pooled tokens. Shared by the families."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import attention, layers

# As large as what a patch holds. At SigLIP's width**-0.5 the world's base took
# a third more steps until it could say where things are.
POSITION_STD = 0.7


class ViT(nnx.Module):
  """A pre-norm vision transformer without pooling or class token.

  The patch embedding is a chain of non-overlapping patch products with GELU
  between them. One step, `stem=((14, 1152),)`, is the plain ViT. Several, such
  as `((4, 32), (2, 64), (2, 96))`, see a 16-pixel patch through two hidden
  layers, which lets a shallow tower tell shapes and exact edges apart.

  Args:
    image_size: side of the square input in pixels.
    stem: (patch side, width) of each step; the last width is the tower's.
    depth, heads, mlp_width: of the transformer.

  Source: Dosovitskiy et al., arXiv:2010.11929; Xiao et al., Early
  Convolutions Help Transformers See Better, arXiv:2106.14881.
  """

  def __init__(
    self,
    *,
    image_size: int,
    stem: Sequence[Sequence[int]],
    depth: int,
    heads: int,
    mlp_width: int,
    rngs: nnx.Rngs,
  ):
    patch_size = 1
    projections, width_in = [], 3
    for side, width in stem:
      patch_size *= side
      projections.append(
        layers.Linear(
          side * side * width_in,
          width,
          (None, "embed"),
          rngs=rngs,
          use_bias=True,
        )
      )
      width_in = width
    if image_size % patch_size:
      raise ValueError(
        f"image_size={image_size} is not a multiple of the patch size"
        f" {patch_size}; try {image_size // patch_size * patch_size}."
      )
    width, self.grid = width_in, image_size // patch_size
    self.sides = tuple(side for side, _ in stem)
    self.stem = nnx.List(projections)
    self.positions = layers.param(
      rngs.params(), (self.grid**2, width), (None, "embed"), POSITION_STD
    )
    self.blocks = nnx.List(
      [Block(width, heads, mlp_width, rngs=rngs) for _ in range(depth)]
    )
    self.norm = layers.LayerNorm(width)

  def __call__(self, image: jax.Array, dtype=jnp.float32) -> jax.Array:
    """uint8[B, height, width, 3] -> float[B, P, D], P in reading order."""
    x = image.astype(dtype) / 127.5 - 1.0
    for index, (side, projection) in enumerate(
      zip(self.sides, self.stem, strict=True)
    ):
      x = projection(patches(x if index == 0 else jax.nn.gelu(x), side))
    x_BPD = x.reshape(x.shape[0], self.grid**2, -1)
    x_BPD = x_BPD + self.positions[...].astype(dtype)[None]
    for block in self.blocks:
      x_BPD = block(x_BPD)
    return self.norm(x_BPD)


class Block(nnx.Module):
  """Self-attention, then an MLP, each behind a layer norm."""

  def __init__(self, width: int, heads: int, mlp_width: int, *, rngs):
    self.norm_attention = layers.LayerNorm(width)
    self.attention = attention.Attention(
      width, heads, width // heads, rngs=rngs, use_bias=True, is_scaled=True
    )
    self.norm_mlp = layers.LayerNorm(width)
    self.mlp = layers.MLP(width, mlp_width, rngs=rngs)

  def __call__(self, x_BPD: jax.Array) -> jax.Array:
    """float[B, P, D] -> float[B, P, D]."""
    h_BPD = self.norm_attention(x_BPD)
    everywhere = jnp.ones((1, 1, x_BPD.shape[1]), bool)
    x_BPD = x_BPD + self.attention(
      h_BPD, *self.attention.keys_values(h_BPD), everywhere
    )
    return x_BPD + self.mlp(self.norm_mlp(x_BPD))


def patches(x: jax.Array, side: int) -> jax.Array:
  """Cuts a grid into squares.

  Args:
    x: float[B, height, width, C], both divisible by side.
    side: of a square.

  Returns:
    float[B, height / side, width / side, side * side * C].
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // side, side, width // side, side, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // side, width // side, -1)
