"""Pictures as patches of their own shape; what each family's table says."""

import numpy as np
import pytest

from vpd_jax.input import images, preprocess


def test_every_family_has_a_known_kernel():
  for family, pixels in preprocess.FAMILIES.items():
    assert pixels.kernel in images.KERNELS, family
    assert len(pixels.mean) == len(pixels.std) == 3, family


@pytest.mark.parametrize(
  "height, width, max_patches, expected",
  [
    (64, 64, 16, (4, 4)),
    (640, 640, 16, (4, 4)),
    (16, 16, 16, (4, 4)),  # Small pictures grow.
    (100, 200, 16, (3, 5)),  # Scaled by 0.4: 2.5 patches, rounded up, and 5.
    (200, 100, 16, (5, 3)),
    (1, 1000, 16, (1, 16)),
    (480, 640, 1, (1, 1)),
  ],
)
def test_grid(height, width, max_patches, expected):
  assert preprocess.naflex_grid(height, width, 16, max_patches) == expected


def test_patches_lie_in_reading_order():
  # Two rows and three columns of 2 x 2 pixels; the red of each says where.
  image = np.zeros((4, 6, 3), np.uint8)
  image[..., 0] = 10 * np.arange(4)[:, None] + np.arange(6)
  image[..., 2] = 200
  patches, mask, grid = preprocess.naflex(image, 2, 7)
  assert patches.dtype == np.uint8 and mask.dtype == bool
  np.testing.assert_array_equal(grid, [2, 3])
  np.testing.assert_array_equal(mask, [1, 1, 1, 1, 1, 1, 0])
  np.testing.assert_array_equal(patches[1, 0::3], [2, 3, 12, 13])
  np.testing.assert_array_equal(patches[3, 0::3], [20, 21, 30, 31])
  np.testing.assert_array_equal(patches[:6, 2::3], 200)
  np.testing.assert_array_equal(patches[6], 0)


def test_kernel_reaches_the_resize():
  image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
  bilinear, _, _ = preprocess.naflex(image, 4, 9)
  bicubic, _, _ = preprocess.naflex(image, 4, 9, "bicubic")
  assert np.abs(bilinear.astype(int) - bicubic).max() > 5


@pytest.mark.parametrize("numbers", [(0, 4, 2, 3), (4, 4, 2, 0), (4, 4, -1, 3)])
def test_numbers_must_be_positive(numbers):
  with pytest.raises(ValueError, match="all must be positive"):
    preprocess.naflex_grid(*numbers)


GOOD = {
  "do_pan_and_scan": None,
  "do_resize": True,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.4, 0.3],
  "rescale_factor": 0.00392156862745098,
  "resample": 2,
  "size": {"height": 384, "width": 384},
}


@pytest.mark.parametrize("size", [GOOD["size"], 384])
def test_config_of_a_checkpoint(size):
  pixels, size_px = preprocess.from_hf(GOOD | {"size": size})
  assert size_px == 384
  assert pixels == preprocess.Pixels(
    "bilinear", std=(0.5, 0.4, 0.3), mean=preprocess.HALF
  )


@pytest.mark.parametrize(
  "change, match",
  [
    ({"size": None}, r"lacks \['size'\]\.$"),
    ({"size": None, "max_num_patches": 256}, "made by `naflex`"),
    ({"size": {"shortest_edge": 224}}, "'size': {'shortest_edge': 224}"),
    ({"size": {"height": 2, "width": 3}}, "'size'"),
    ({"resample": 0}, "'resample': 0.*2: 'bilinear'"),
    ({"do_pan_and_scan": True}, "'do_pan_and_scan': True"),
    ({"do_center_crop": True}, "'do_center_crop': True"),
    ({"do_normalize": False}, "'do_normalize': False"),
    ({"rescale_factor": 1 / 127.5}, "'rescale_factor'"),
    ({"image_mean": [0.5]}, "no 3 channels"),
  ],
)
def test_config_that_asks_for_something_else(change, match):
  with pytest.raises(ValueError, match=match):
    preprocess.from_hf(GOOD | change)
