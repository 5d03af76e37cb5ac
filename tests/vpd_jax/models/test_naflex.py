"""The image encoder of pictures of any shape: laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import compiled
from vpd_jax.models import layers, naflex, resize, vit

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def _tower(is_scanned=True):
  return naflex.NaFlexViT(
    patch_size=2,
    grid=4,
    width=16,
    depth=2,
    heads=2,
    mlp_width=24,
    is_scanned=is_scanned,
    rngs=layers.Keys(0),
  )


@pytest.fixture(scope="module")
def tower():
  return compiled.Compiled(_tower())


def test_positions_are_those_of_resize(tower):
  table = tower.positions[...]
  grids = [(4, 4), (2, 3), (1, 12), (7, 1)]
  ours = jax.jit(naflex.positions, static_argnums=2)(
    table, jnp.array(grids), 16
  )
  for row, (height, width) in zip(ours, grids, strict=True):
    count = height * width
    expected = resize.positions(
      table, (4, 4), (height, width), "bilinear_antialias"
    )
    np.testing.assert_allclose(row[:count], expected, atol=1e-5)
    np.testing.assert_allclose(row[count:], row[:1].repeat(16 - count, 0))


def test_square_of_the_tables_size_is_a_vit(tower):
  plain = vit.ViT(
    image_size=8,
    stem=((2, 16),),
    depth=2,
    heads=2,
    mlp_width=24,
    rngs=layers.Keys(1),
  )
  nnx.update(plain, nnx.state(tower.model))  # Names and shapes are the same.
  image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  cut = vit.patches(jnp.asarray(image), 2).reshape(2, 16, 12)
  grid = jnp.full((2, 2), 4)
  tokens = tower(naflex.Patches(cut, jnp.ones((2, 16), bool), grid))
  np.testing.assert_allclose(tokens, jax.jit(plain)(image), atol=1e-5)


def test_padding_changes_no_token(tower):
  short = _patches((2, 3), 6)
  longer = naflex.Patches(
    # What lies in padding does not matter either.
    jnp.pad(short.pixels_BPI, ((0, 0), (0, 4), (0, 0)), constant_values=99),
    jnp.pad(short.mask_BP, ((0, 0), (0, 4))),
    short.grid_B2,
  )
  np.testing.assert_allclose(tower(longer)[:, :6], tower(short), atol=1e-5)


def test_shape_of_the_grid_matters(tower):
  tall = _patches((3, 2), 6)
  wide = tall._replace(grid_B2=jnp.array([[2, 3]]))
  assert np.abs(tower(tall) - tower(wide)).max() > 0.1


@pytest.mark.parametrize("is_scanned", [True, False])
def test_bfloat16_stays_bfloat16(is_scanned):
  tower = _tower(is_scanned)
  image = _patches((2, 3), 8)
  tokens = jax.jit(lambda image: tower(image, jnp.bfloat16))(image)
  assert tokens.dtype == jnp.bfloat16 and tokens.shape == (1, 8, 16)
  np.testing.assert_allclose(
    tokens[:, :6].astype(jnp.float32), jax.jit(tower)(image)[:, :6], atol=0.2
  )


def _patches(grid, count):
  pixels = jax.random.bits(jax.random.key(0), (1, count, 12), jnp.uint8)
  mask = jnp.arange(count)[None] < grid[0] * grid[1]
  return naflex.Patches(pixels, mask, jnp.array([grid]))
