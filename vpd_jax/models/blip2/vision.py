"""BLIP-2's image encoder: EVA's ViT-g, a class token before the patches."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers, resize, stack, vit

# CLIP's, of its training images. Source: openai/CLIP, clip/clip.py.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class EVA(nnx.Module):
  """A pre-norm vision transformer with a class token; all tokens are normed.

  Args:
    image_size: side of the square input in pixels.
    patch_size: side of a patch.
    width, depth, heads, mlp_width: of the transformer. EVA's ViT-g has 40
      blocks; BLIP-2 reads the tokens after the 39th.
    image_mean, image_std: of red, green and blue in 0..1.
    is_scanned, remat: how blocks are run; see `stack.run`.

  Raises:
    ValueError: if patches do not fill the image.

  Source: Fang et al., EVA, arXiv:2211.07636; transformers,
  modeling_blip_2.py, Blip2VisionModel. LAVIS norms the tokens with an epsilon
  of 1e-5, transformers and we with 1e-6.
  """

  def __init__(
    self,
    *,
    image_size: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    image_mean: Sequence[float] = CLIP_MEAN,
    image_std: Sequence[float] = CLIP_STD,
    is_scanned: bool = True,
    remat: str = "none",
    rngs: layers.Keys,
  ):
    if image_size % patch_size:
      raise ValueError(
        f"image_size={image_size} is not a multiple of patch_size="
        f"{patch_size}; try {image_size // patch_size * patch_size}."
      )
    self.patch_size, self.grid = patch_size, image_size // patch_size
    self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
    self.patch = layers.Linear(
      patch_size**2 * 3, width, (None, "embed"), rngs=rngs, use_bias=True
    )
    self.class_token = layers.param(
      rngs.params(), (width,), ("embed",), vit.POSITION_STD
    )
    self.positions = layers.param(
      rngs.params(),
      (1 + self.grid**2, width),
      (None, "embed"),
      vit.POSITION_STD,
    )
    self.blocks = stack.make(
      lambda rngs: _block(width, heads, mlp_width, rngs), depth, rngs
    )
    self.norm = layers.LayerNorm(width)
    self.is_scanned, self.remat = is_scanned, remat

  def __call__(
    self,
    image: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """uint8[B, height, width, 3] -> float[B, 1 + P, D], class token first."""
    mean, std = (
      jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3)
      for values in (self.image_mean, self.image_std)
    )
    x = (image.astype(jnp.float32) / 255.0 - mean) / std
    x = self.patch(vit.patches(x.astype(dtype), self.patch_size))
    x_BPD = x.reshape(x.shape[0], self.grid**2, -1)
    class_B1D = jnp.broadcast_to(
      self.class_token[...].astype(dtype)[None, None],
      (x.shape[0], 1, x.shape[-1]),
    )
    x_BPD = jnp.concatenate([class_B1D, x_BPD], axis=1)
    x_BPD = x_BPD + self.positions[...].astype(dtype)[None]
    return self.norm(vit.run_blocks(self, x_BPD, None, key))


def resize_positions(positions_PD: jax.Array, grid: int) -> jax.Array:
  """Positions for images of another size, as LAVIS and transformers do.

  To be done once, on weights of the model of one image size, before they
  become those of another: 224 pixels are a grid of 16, 364 of 26, 480 of 34.

  Args:
    positions_PD: float[1 + P, D]; the first, the class token's, stays.
    grid: patches on a side, after.

  Returns:
    float[1 + grid**2, D].

  Raises:
    ValueError: if the patches before are not a square.
  """
  before = round((positions_PD.shape[0] - 1) ** 0.5)
  patches_PD = resize.positions(
    positions_PD[1:], (before, before), (grid, grid), "bicubic"
  )
  return jnp.concatenate([positions_PD[:1], patches_PD])


def _block(
  width: int, heads: int, mlp_width: int, rngs: layers.Keys
) -> vit.Block:
  block = vit.Block(width, heads, mlp_width, rngs=rngs)
  block.mlp.activation = "gelu_erf"
  return block
