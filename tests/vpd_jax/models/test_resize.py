"""Resized position tables: values by hand, and laws of every method."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vpd_jax.models import resize

pytestmark = pytest.mark.usefixtures("strict_dtypes")
METHODS = pytest.mark.parametrize("method", list(resize.METHODS))
GRIDS = [((4, 4), (8, 6)), ((16, 16), (5, 7)), ((3, 5), (1, 9))]


@pytest.mark.parametrize(
  "method, expected",
  [
    # New points lie at 0.5 and 2.5 among the old ones. Four neighbours with
    # slope -0.75, of which the edge is repeated:
    ("bicubic", [[0.5, 0.59375, -0.09375, 0], [0, -0.09375, 0.59375, 0.5]]),
    # A triangle twice as wide: 3/4, 3/4, 1/4 of what lies inside.
    (
      "bilinear_antialias",
      [[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]],
    ),
    # The corners stay where they are.
    ("bilinear_corners", [[1, 0, 0, 0], [0, 0, 0, 1]]),
  ],
)
def test_halving(method, expected):
  np.testing.assert_allclose(resize.weights(4, 2, method), expected, atol=1e-12)


def test_bicubic_antialias_is_as_wide_as_what_it_covers():
  taken = resize.weights(16, 4, "bicubic_antialias")
  # Support is 2 * 16 / 4 = 8 old points to each side of 5.5, of which
  # -2.5..13.5 are the 14 that exist; a cubic kernel is negative in its tails.
  np.testing.assert_array_equal(taken[1] != 0, np.arange(16) < 14)
  assert taken[1, 0] < 0 < taken[1, 5]


@METHODS
def test_rows_sum_to_one_and_same_size_is_the_identity(method):
  for size_from, size_to in [(4, 9), (9, 4), (16, 1), (1, 5)]:
    rows = resize.weights(size_from, size_to, method).sum(axis=1)
    np.testing.assert_allclose(rows, 1, atol=1e-12)
  np.testing.assert_array_equal(resize.weights(7, 7, method), np.eye(7))


@METHODS
def test_mirrored_table_gives_the_mirrored_result(method):
  taken = resize.weights(11, 6, method)
  np.testing.assert_allclose(taken, taken[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("grid_from, grid_to", GRIDS)
def test_bilinear_corners_is_scipys_zoom(grid_from, grid_to):
  table = _table(grid_from)
  factors = (grid_to[0] / grid_from[0], grid_to[1] / grid_from[1], 1)
  expected: Any = scipy.ndimage.zoom(
    np.asarray(table).reshape(*grid_from, -1), factors, order=1
  )
  expected = expected.reshape(-1, table.shape[1])
  ours = resize.positions(table, grid_from, grid_to, "bilinear_corners")
  np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("grid_from, grid_to", GRIDS)
def test_bilinear_antialias_is_jax_image(grid_from, grid_to):
  table = _table(grid_from)
  shape = (*grid_to, table.shape[1])
  expected = jax.image.resize(
    table.reshape(*grid_from, -1), shape, "bilinear", antialias=True
  )
  expected = jnp.reshape(expected, (-1, table.shape[1]))
  ours = resize.positions(table, grid_from, grid_to, "bilinear_antialias")
  np.testing.assert_allclose(ours, expected, atol=1e-5)


@METHODS
def test_rows_and_columns_are_not_mixed_up(method):
  """A table that says the row alone says it still, in each column."""
  rows = np.repeat(np.arange(6.0, dtype=np.float32), 4)[:, None]
  resized = resize.positions(jnp.asarray(rows), (6, 4), (3, 8), method)
  by_row = np.asarray(resized).reshape(3, 8)
  np.testing.assert_allclose(by_row, by_row[:, :1].repeat(8, 1), atol=1e-5)
  assert np.all(np.diff(by_row[:, 0]) > 1)


@METHODS
def test_gradient_is_the_transpose(method):
  table, grids = _table((4, 4)), ((4, 4), (3, 6))
  direction = jax.random.normal(jax.random.key(1), (18, 3))
  gradient = jax.jit(
    jax.grad(lambda t: jnp.sum(resize.positions(t, *grids, method) * direction))
  )(table)
  along = jax.random.normal(jax.random.key(2), (16, 3))
  # The map is linear: <gradient, v> = <direction, map(v)>.
  np.testing.assert_allclose(
    jnp.sum(gradient * along),
    jnp.sum(direction * resize.positions(along, *grids, method)),
    rtol=1e-4,
  )


def test_dtype_stays_and_sums_are_float32():
  table = _table((8, 8)).astype(jnp.bfloat16)
  resized = resize.positions(table, (8, 8), (3, 3), "bilinear_antialias")
  assert resized.dtype == jnp.bfloat16
  exact = resize.positions(
    table.astype(jnp.float32), (8, 8), (3, 3), "bilinear_antialias"
  )
  np.testing.assert_array_equal(resized, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
  "grid_from, grid_to, method, match",
  [
    ((4, 4), (2, 2), "cubic", "'cubic' is not one of .*'bicubic_antialias'"),
    ((4, 3), (2, 2), "bicubic", "16 positions is not of a grid of 4 x 3"),
    ((4, 4), (0, 2), "bicubic", "a side of 4 to 0"),
  ],
)
def test_bad_input(grid_from, grid_to, method, match):
  with pytest.raises(ValueError, match=match):
    resize.positions(_table((4, 4)), grid_from, grid_to, method)


def _table(grid):
  return jax.random.normal(jax.random.key(0), (grid[0] * grid[1], 3))
