"""The image encoder: pixels to un-pooled tokens. Shared by the families."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import attention, layers, stack

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
    has_parallel_blocks: ViT-22B's blocks instead of the usual.
    is_scanned, remat: how blocks are run; see `stack.run`.

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
    has_parallel_blocks: bool = False,
    is_scanned: bool = True,
    remat: str = "none",
    rngs: layers.Keys,
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
    make_block = ParallelBlock if has_parallel_blocks else Block
    self.blocks = stack.make(
      lambda rngs: make_block(width, heads, mlp_width, rngs=rngs), depth, rngs
    )
    self.norm = layers.LayerNorm(width, use_bias=not has_parallel_blocks)
    self.is_scanned, self.remat = is_scanned, remat

  def __call__(
    self,
    image: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """uint8[B, height, width, 3] -> float[B, P, D], P in reading order."""
    # In bfloat16 the sum would round to steps of up to a level of a pixel.
    x = (jnp.asarray(image, jnp.float32) / 127.5 - 1.0).astype(dtype)
    for index, (side, projection) in enumerate(
      zip(self.sides, self.stem, strict=True)
    ):
      x = projection(patches(x if index == 0 else jax.nn.gelu(x), side))
    x_BPD = x.reshape(x.shape[0], self.grid**2, -1)
    x_BPD = x_BPD + self.positions[...].astype(dtype)[None]
    return self.norm(run_blocks(self, x_BPD, None, key))


def run_blocks(
  tower: Any,
  x_BPD: jax.Array,
  mask_B1P: jax.Array | None,
  key: jax.Array | None,
) -> jax.Array:
  """float[B, P, D] through the blocks of a tower, as its options say."""

  def body(block, carry, _):
    x_BPD, key = carry
    key, block_key = layers.split(key, 2)
    x_BPD = layers.constrain(x_BPD, "batch", "tokens")
    return (block(x_BPD, mask_B1P, block_key), key), None

  options = {"is_scanned": tower.is_scanned, "remat": tower.remat}
  return stack.run(tower.blocks, body, (x_BPD, key), **options)[0][0]


class Block(nnx.Module):
  """Self-attention, then an MLP, each behind a layer norm."""

  def __init__(self, width: int, heads: int, mlp_width: int, *, rngs):
    self.norm_attention = layers.LayerNorm(width)
    self.attention = attention.Attention(
      width, heads, width // heads, rngs=rngs, use_bias=True, is_scaled=True
    )
    self.norm_mlp = layers.LayerNorm(width)
    self.mlp = layers.MLP(width, mlp_width, rngs=rngs)

  def __call__(
    self,
    x_BPD: jax.Array,
    mask_B1P: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """float[B, P, D], bool[B, 1, P] (None: all are real) -> float[B, P, D]."""
    kv_key, attention_key, mlp_key = layers.split(key, 3)
    h_BPD = self.norm_attention(x_BPD)
    keys_values = attention.gathered(self.attention.keys_values(h_BPD, kv_key))
    x_BPD = x_BPD + self.attention(
      h_BPD, *keys_values, mask_B1P, key=attention_key
    )
    return x_BPD + self.mlp(self.norm_mlp(x_BPD), mlp_key)


class ParallelBlock(nnx.Module):
  """Self-attention and an MLP side by side behind one norm, as in ViT-22B.

  Queries and keys are normed; norms and the three projections in have no
  bias. Source: Dehghani et al., arXiv:2302.05442, section 2.
  """

  def __init__(self, width: int, heads: int, mlp_width: int, *, rngs):
    self.norm = layers.LayerNorm(width, use_bias=False)
    self.attention = attention.Attention(
      width,
      heads,
      width // heads,
      rngs=rngs,
      use_bias=False,
      use_out_bias=True,
      is_scaled=True,
      has_qk_norm=True,
    )
    self.mlp = layers.MLP(width, mlp_width, rngs=rngs)

  def __call__(
    self,
    x_BPD: jax.Array,
    mask_B1P: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """As `Block`."""
    kv_key, attention_key, mlp_key = layers.split(key, 3)
    h_BPD = self.norm(x_BPD)
    keys_values = attention.gathered(self.attention.keys_values(h_BPD, kv_key))
    attended = self.attention(h_BPD, *keys_values, mask_B1P, key=attention_key)
    return x_BPD + attended + self.mlp(h_BPD, mlp_key)


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
