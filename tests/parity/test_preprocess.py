"""Resized positions against torch's, pixels against transformers' processors."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from vpd_jax.input import images, preprocess
from vpd_jax.models import resize

pytestmark = pytest.mark.usefixtures("references")
# height, width of a picture: shrunk, grown, both, and cut to a tenth.
SHAPES = [(61, 90), (300, 200), (20, 31), (40, 200)]
# Ours -> their class, and what a checkpoint's preprocessor_config.json says
# besides the size; PIL's resampling 2 is bilinear, 3 bicubic.
PROCESSORS = {
  "siglip": ("Siglip", {}),
  "siglip2": ("Siglip", {"resample": 2}),
  "paligemma": ("Siglip", {}),
  "t5gemma2": ("Gemma3", {}),
  "blip2": ("Blip", {}),
}
# Levels of 255. Theirs with PIL is the same code; with torchvision it rounds
# weights to 16 bits (on these pictures by 1, on photographs by up to 2).
BACKENDS = [
  pytest.param("Pil", 0, id="PIL"),
  pytest.param(
    "",
    2,
    id="torchvision",
    marks=pytest.mark.skipif(
      importlib.util.find_spec("torchvision") is None,
      reason="needs torchvision",
    ),
  ),
]


@pytest.mark.parametrize(
  "method", ["bicubic", "bicubic_antialias", "bilinear_antialias"]
)
def test_positions(method, references, compare):
  import torch

  mode, _, antialias = method.partition("_")
  worst = 0.0
  for grid_from, grid_to in [
    ((16, 16), (32, 24)),
    ((16, 16), (7, 9)),
    ((16, 16), (1, 33)),
    ((27, 27), (64, 64)),
    ((5, 9), (4, 31)),
  ]:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((*grid_from, 8)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
      torch.tensor(table).permute(2, 0, 1)[None],
      size=grid_to,
      mode=mode,
      align_corners=False,
      antialias=bool(antialias),
    )[0]
    theirs = theirs.permute(1, 2, 0).reshape(-1, 8).numpy()
    ours = resize.positions(table.reshape(-1, 8), grid_from, grid_to, method)
    worst = max(worst, np.abs(ours - theirs).max())
  version = f"torch {torch.__version__}"
  compare("Positions", version, f"{method}, resized", worst, 1e-5)


@pytest.mark.parametrize("backend, bound", BACKENDS)
@pytest.mark.parametrize("family", PROCESSORS)
def test_pixels(family, backend, bound, references, compare):
  name, options = PROCESSORS[family]
  processor = _processor(
    f"{name}ImageProcessor{backend}",
    size={"height": 56, "width": 56},
    **options,
  )
  pixels = preprocess.FAMILIES[family]
  mean = np.asarray(pixels.mean, np.float32)
  std = np.asarray(pixels.std, np.float32)
  worst = 0.0
  for shape in SHAPES:
    picture = _picture(*shape)
    theirs = processor(Image.fromarray(picture), return_tensors="np")
    theirs = np.asarray(theirs["pixel_values"])[0].transpose(1, 2, 0)
    ours = images.resize(picture, (56, 56), pixels.kernel)
    ours = (ours / np.float32(255) - mean) / std
    # In levels: what differs by rounding of float32 only is 0 here.
    worst = max(worst, np.round(np.abs(ours - theirs) * std * 255, 3).max())
  kind = backend or "torchvision"
  compare(family, references.VERSION, f"levels of 255, {kind}", worst, bound)


@pytest.mark.parametrize("family", PROCESSORS)
def test_written_config_says_what_our_table_says(family, references, tmp_path):
  name, options = PROCESSORS[family]
  size = {"height": 56, "width": 56}
  processor = _processor(f"{name}ImageProcessorPil", size=size, **options)
  processor.save_pretrained(tmp_path)
  written = json.loads((tmp_path / "preprocessor_config.json").read_text())
  assert preprocess.from_hf(written) == (preprocess.FAMILIES[family], 56)


@pytest.mark.parametrize("backend, bound", BACKENDS)
def test_naflex(backend, bound, references, compare):
  processor = _processor(
    f"Siglip2ImageProcessor{backend}", patch_size=8, max_num_patches=30
  )
  kernel = preprocess.FAMILIES["siglip2_naflex"].kernel
  worst = 0.0
  for shape in SHAPES:
    picture = _picture(*shape)
    theirs = processor(Image.fromarray(picture), return_tensors="np")
    patches, mask, grid = preprocess.naflex(picture, 8, 30, kernel)
    np.testing.assert_array_equal(grid, theirs["spatial_shapes"][0])
    np.testing.assert_array_equal(mask, theirs["pixel_attention_mask"][0])
    ours = np.where(mask[:, None], patches / np.float32(127.5) - 1, 0)
    difference = np.abs(ours - np.asarray(theirs["pixel_values"][0]))
    worst = max(worst, np.round(difference * 127.5, 3).max())
  kind = backend or "torchvision"
  what = f"levels of 255, {kind}"
  compare("siglip2_naflex", references.VERSION, what, worst, bound)


def test_naflex_grids_of_many_sizes(references, compare):
  from transformers.models.siglip2 import image_processing_pil_siglip2 as theirs

  rng = np.random.default_rng(0)
  different = 0
  for _ in range(500):
    height, width = (int(n) for n in np.exp(rng.uniform(0, 8, 2)))
    patch, most = int(rng.integers(1, 33)), int(rng.integers(1, 1025))
    size = theirs.get_image_size_for_max_num_patches(height, width, patch, most)
    ours = preprocess.naflex_grid(height, width, patch, most)
    different += size != (ours[0] * patch, ours[1] * patch)
  what = "grids that differ, of 500"
  compare("siglip2_naflex", references.VERSION, what, different, 0)


def _processor(name, **options):
  import transformers

  return getattr(transformers, name)(**options)


def _picture(height, width):
  """Noise over a slope: every frequency, every level, both ends clipped."""
  rng = np.random.default_rng(height)
  slope = np.linspace(-60, 300, height * width).reshape(height, width, 1)
  noisy = slope + rng.normal(0, 60, (height, width, 3))
  return np.clip(noisy, 0, 255).astype(np.uint8)
