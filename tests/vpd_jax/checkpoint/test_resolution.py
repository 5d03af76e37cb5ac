"""Positions for images of another size; the values are test_resize's."""

import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.checkpoint import resolution, source
from vpd_jax.models import resize

SQUARE = dict(image_size=28, stem=((14, 6),))
STEPS = dict(image_size=16, stem=((4, 3), (2, 6)))
POOLED = dict(image_size=56, stem=((7, 6),), image_tokens=4)
EVA = dict(image_size=28, patch_size=14)


def table(rows):
  values = np.random.default_rng(0).standard_normal((rows, 6))
  return values.astype(np.float32)


def change(family, options, values, px, **more):
  arrays = {
    "other": source.in_memory(np.zeros(3), "other"),
    resolution.TABLE: source.in_memory(values, "positions"),
  }
  changed, found = resolution.change(family, options, arrays, px, **more)
  assert found.keys() == arrays.keys() and found["other"] is arrays["other"]
  assert changed == options | {"image_size": px}
  after = found[resolution.TABLE]
  assert after.whole().shape == after.shape
  return after.whole()


@pytest.mark.parametrize("method", ["bicubic", "bilinear_corners"])
def test_a_square_of_patches(method):
  found = change("pali", SQUARE, table(4), 42, method=method)
  expected = resize.positions(jnp.asarray(table(4)), (2, 2), (3, 3), method)
  np.testing.assert_array_equal(found, expected)
  assert change("pali", STEPS, table(4), 24).shape == (9, 6)


def test_the_same_size_changes_nothing():
  found = change("pali", SQUARE, table(4), 28)
  np.testing.assert_allclose(found, table(4), atol=1e-6)


def test_what_is_no_patch_keeps_its_row():
  found = change("blip2", EVA, table(5), 42)
  patches = change("pali", SQUARE, table(5)[1:], 42)
  np.testing.assert_array_equal(found[0], table(5)[0])
  np.testing.assert_array_equal(found[1:], patches)


def test_half_precision_is_computed_with_in_float32():
  half = table(4).astype(jnp.bfloat16)
  found = change("pali", SQUARE, half, 42)
  assert found.dtype == np.float32
  expected = change("pali", SQUARE, half.astype(np.float32), 42)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  "options,px,message",
  [
    (SQUARE, 30, "multiple of 14: patches have 14 pixels; the nearest is 28"),
    (SQUARE, 41, "nearest is 42"),
    (SQUARE, 3, "nearest is 14"),
    (SQUARE, 0, "nearest is 14"),
    (SQUARE, -28, "nearest is 14"),
    (STEPS, 20, "multiple of 8: "),
    (EVA, 43, "nearest is 42"),
    (POOLED, 21, "14: patches have 7 pixels, averaged to 2 x 2 tokens; the ne"),
    (SQUARE | dict(has_naflex_vit=True), 28, "NaFlex, which takes images of"),
  ],
)
def test_sizes_that_do_not_fit(options, px, message):
  with pytest.raises(ValueError, match=message):
    resolution.check(options, px)


@pytest.mark.parametrize(
  "options,px", [(SQUARE, 14), (STEPS, 8), (EVA, 42), (POOLED, 42)]
)
def test_sizes_that_fit(options, px):
  resolution.check(options, px)


def test_positions_that_are_not_finite_are_named():
  values = table(4)
  values[2, 1] = np.nan
  with pytest.raises(ValueError, match="positions has 1 values, NaN"):
    change("pali", SQUARE, values, 42)
