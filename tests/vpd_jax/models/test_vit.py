"""The image towers: what their activations' dtype may not change."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpd_jax.models import layers, naflex, vit

pytestmark = pytest.mark.usefixtures("strict_dtypes")
TOWER: dict = dict(depth=1, heads=2, mlp_width=8)


class Recorder(nnx.Module):
  """Stands for the first projection: keeps what it is given."""

  def __init__(self):
    self.seen = nnx.data([])

  def __call__(self, x):
    self.seen.append(x)
    return jnp.zeros((*x.shape[:-1], 8), x.dtype)


def levels():
  """Every level of a pixel, as a picture of 16 x 16 x 3 of each thrice."""
  return np.tile(np.arange(256, dtype=np.uint8)[:, None], 3).reshape(16, 16, 3)


@pytest.mark.parametrize("is_naflex", [False, True])
def test_bfloat16_pixels_are_rounded_once(is_naflex):
  image = levels()[None]
  if is_naflex:
    tower = naflex.NaFlexViT(
      patch_size=2, grid=8, width=8, rngs=layers.Keys(0), **TOWER
    )
    cut = vit.patches(jnp.asarray(image), 2).reshape(1, 64, 12)
    image = naflex.Patches(cut, jnp.ones((1, 64), bool), jnp.full((1, 2), 8))
  else:
    tower = vit.ViT(image_size=16, stem=((2, 8),), rngs=layers.Keys(0), **TOWER)
  recorder = Recorder()
  tower.stem[0] = recorder
  tower(image, jnp.bfloat16)
  (seen,) = recorder.seen
  assert seen.dtype == jnp.bfloat16
  exact = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
  expected = exact.astype(jnp.bfloat16).astype(np.float32)
  found = np.unique(np.asarray(seen, np.float32))
  # Rounded before the subtraction too, levels move by up to 1 / 256. XLA
  # divides by multiplying, which moves the one next to 0 a little.
  np.testing.assert_allclose(found, np.unique(expected), atol=1e-4)
