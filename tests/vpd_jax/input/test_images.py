"""Pictures decode to RGB squares; broken ones are named."""

import io

import numpy as np
import pytest
from PIL import Image

from vpd_jax.input import images


def test_pixels_of_a_png_come_back():
  pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  decoded = images.decode(file.getvalue(), 4)
  assert decoded.dtype == np.uint8
  np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(mode):
  file = io.BytesIO()
  Image.new(mode, (6, 3)).save(file, "PNG")
  assert images.decode(file.getvalue(), 4).shape == (4, 4, 3)


def test_resizing_scales_each_axis():
  # Left half white; twice as wide as high.
  pixels = np.zeros((8, 16, 3), np.uint8)
  pixels[:, :8] = 255
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  decoded = images.decode(file.getvalue(), 8)
  np.testing.assert_array_equal(decoded[:, 1], 255)
  np.testing.assert_array_equal(decoded[:, 6], 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_truncated_picture_is_named(encode_image, form):
  encoded = encode_image(0, 32, form)[:-200]
  with pytest.raises(ValueError, match=r"i7: cannot decode its \d+ bytes"):
    images.decode(encoded, 32, "i7")


def test_no_picture_is_named():
  with pytest.raises(ValueError, match="image: cannot decode its 5 bytes"):
    images.decode(b"hello", 32)


def test_kernel_is_the_one_asked_for(encode_image):
  encoded = encode_image(0, 32)
  whole = Image.open(io.BytesIO(encoded))
  resampling = {"bilinear": 2, "bicubic": 3, "lanczos": 1}
  assert resampling == {k: int(v) for k, v in images.KERNELS.items()}
  for kernel, number in resampling.items():
    expected = whole.resize((12, 12), Image.Resampling(number))
    decoded = images.decode(encoded, 12, kernel=kernel)
    np.testing.assert_array_equal(decoded, expected)
  expected = whole.resize((12, 12), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(images.decode(encoded, 12), expected)


def test_resize_takes_height_first_and_keeps_what_fits(encode_image):
  image = images.read(encode_image(0, 16))
  assert images.resize(image, (4, 8), "bilinear").shape == (4, 8, 3)
  assert images.resize(image, (16, 16), "bilinear") is image


def test_unknown_kernel_lists_the_known():
  image = np.zeros((4, 4, 3), np.uint8)
  known = r"'area' is not one of \['bilinear', 'bicubic', 'lanczos'\]"
  with pytest.raises(ValueError, match=known):
    images.resize(image, (4, 4), "area")
