"""What each family's own image processor does to pixels, by name.

A processor resizes, divides by 255, then takes (x - mean) / std. The first is
done on the host (`images.resize` for a square, `naflex` for a grid of patches
that keeps the picture's shape); pixels stay uint8. The rest is the model's.

The host's pixels are those of transformers' processors with PIL, to the level.
Its processors with torchvision, the default where that is installed, round
weights to 16 bits. On two photographs, 224 to 896 px, at most 0.7% of values
differed, none by more than 2 of 255 levels; on noise shrunk ninefold, up to 3.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax.input import images

HALF = (0.5, 0.5, 0.5)
# CLIP's, of its training images. Source: openai/CLIP clip/clip.py.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Pixels:
  """How a family sees a picture.

  Attributes:
    kernel: of `images.KERNELS`, for the host.
    mean, std: of red, green and blue in 0..1, for the model.
  """

  kernel: str
  mean: tuple[float, float, float] = HALF
  std: tuple[float, float, float] = HALF


# Source: image_processing_*.py of each in transformers 5.23. SigLIP 2 of fixed
# size has SigLIP's class, with a preprocessor_config.json that says bilinear.
FAMILIES: Mapping[str, Pixels] = types.MappingProxyType(
  {
    "siglip": Pixels("bicubic"),
    "siglip2": Pixels("bilinear"),
    "siglip2_naflex": Pixels("bilinear"),
    "paligemma": Pixels("bicubic"),
    "t5gemma2": Pixels("bilinear"),
    "blip2": Pixels("bicubic", CLIP_MEAN, CLIP_STD),
  }
)


# What a preprocessor_config.json may ask for that we do not do: steps that
# are off where it says nothing, and steps that are on.
_OFF = ("do_pan_and_scan", "do_center_crop", "do_pad", "do_flip_channel_order")
_ON = ("do_resize", "do_rescale", "do_normalize")
_KERNELS = {int(number): name for name, number in images.KERNELS.items()}
_NEEDED = ("size", "resample", "image_mean", "image_std")


def from_hf(config: Mapping[str, Any]) -> tuple[Pixels, int]:
  """What the preprocessor_config.json beside a checkpoint's weights asks for.

  It, and no table of ours, says how that checkpoint was meant to see.

  Args:
    config: the file, parsed; of a processor that resizes to a square.

  Returns:
    (pixels, size_px): the size is the height and width.

  Raises:
    ValueError: if it lacks a field, or asks for what we do not compute.
  """
  what = "preprocessor_config.json"
  missing = [name for name in _NEEDED if config.get(name) is None]
  if missing:
    hint = " Patches of SigLIP 2 NaFlex are made by `naflex`."
    raise ValueError(
      f"{what} lacks {missing}.{hint if 'max_num_patches' in config else ''}"
    )
  wrong = _other_steps(config)
  size = config["size"]
  if isinstance(size, int):
    size = {"height": size, "width": size}
  if set(size) != {"height", "width"} or size["height"] != size["width"]:
    wrong.append("size")
  if config["resample"] not in _KERNELS:
    wrong.append("resample")
  if wrong:
    found = {name: config[name] for name in wrong}
    raise ValueError(
      f"{what} asks for what is not computed here: {found}. A picture is"
      " resized to a square, divided by 255, and its mean and deviation taken"
      f" out; resample is one of {_KERNELS}."
    )
  mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
  if len(mean) != 3 or len(std) != 3:
    raise ValueError(f"{what} has no 3 channels: {mean=}, {std=}.")
  return Pixels(_KERNELS[config["resample"]], mean, std), size["height"]


def kernel_of(config: Mapping[str, Any]) -> str:
  """The kernel that a preprocessor_config.json of NaFlex asks for.

  Raises:
    ValueError: if it is none that we compute, or there are other steps.
  """
  number = config.get("resample", 2)  # The default of transformers.
  wrong = {name: config[name] for name in _other_steps(config)}
  if number not in _KERNELS or wrong:
    raise ValueError(
      f"it asks for what is not computed here: {wrong | {'resample': number}}."
      f" A picture is resized, divided by 255, and its mean and deviation taken"
      f" out; resample is one of {_KERNELS}."
    )
  return _KERNELS[number]


def _other_steps(config: Mapping[str, Any]) -> list[str]:
  """Fields that ask for other steps than ours."""
  wrong = [name for name in _OFF if config.get(name)]
  wrong += [name for name in _ON if not config.get(name, True)]
  factor = config.get("rescale_factor", 1 / 255)
  if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
    wrong.append("rescale_factor")
  return wrong


def naflex(
  image: np.ndarray,
  patch_size: int,
  max_patches: int,
  kernel: str = "bilinear",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A picture as patches, close to its own shape and as many as fit.

  Args:
    image: uint8[height, width, 3].
    patch_size: side of a patch in pixels.
    max_patches: how many rows the result has.
    kernel: of `images.KERNELS`.

  Returns:
    patches uint8[max_patches, patch_size**2 * 3], in reading order and each of
    them too, 0 in rows of padding; mask bool[max_patches], False there; grid
    int32[2], rows and columns of patches.

  Raises:
    ValueError: if the kernel is unknown or a number is not positive.

  Source: SigLIP 2, arXiv:2502.14786, section 2.4.2.
  """
  height, width, _ = image.shape
  rows, columns = naflex_grid(height, width, patch_size, max_patches)
  size_px = (rows * patch_size, columns * patch_size)
  resized = images.resize(image, size_px, kernel)
  cut = resized.reshape(rows, patch_size, columns, patch_size, 3)
  patches = np.zeros((max_patches, patch_size**2 * 3), np.uint8)
  patches[: rows * columns] = cut.transpose(0, 2, 1, 3, 4).reshape(
    rows * columns, -1
  )
  mask = np.arange(max_patches) < rows * columns
  return patches, mask, np.array([rows, columns], np.int32)


def naflex_grid(
  height: int, width: int, patch_size: int, max_patches: int
) -> tuple[int, int]:
  """Rows and columns of patches of the largest scale at which all fit.

  A side is rounded up to whole patches. The scale is found by bisection with
  the bounds and the precision of transformers' Siglip2ImageProcessor, since
  a scale next to a boundary decides about a whole row.

  Raises:
    ValueError: if a number is not positive.
  """
  if min(height, width, patch_size, max_patches) < 1:
    raise ValueError(
      f"cannot cut {height} x {width} pixels into at most {max_patches} patches"
      f" of side {patch_size}: all must be positive."
    )
  low, high = 1e-6, 100.0

  def grid(scale: float) -> tuple[int, int]:
    return (
      max(1, math.ceil(height * scale / patch_size)),
      max(1, math.ceil(width * scale / patch_size)),
    )

  while high - low >= 1e-5:
    scale = (low + high) / 2
    if math.prod(grid(scale)) <= max_patches:
      low = scale
    else:
      high = scale
  return grid(low)
