"""Encoded picture -> pixels of the size the model takes.

Pixels stay uint8 up to the device, where the model scales them: a batch is a
quarter of the bytes. Orientation tags are ignored: boxes in the records were
measured on the pixels as stored. So is transparency: what lies under it is
what the tools of data_gen see too.
"""

import io
import types
from collections.abc import Mapping

import numpy as np
from PIL import Image

# How a picture is resized, by name. All widen as they shrink (antialias).
KERNELS: Mapping[str, Image.Resampling] = types.MappingProxyType(
  {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
  }
)
DEFAULT_KERNEL = "bicubic"


def decode(
  encoded: bytes,
  size_px: int,
  name: str = "image",
  kernel: str = DEFAULT_KERNEL,
) -> np.ndarray:
  """Decodes a JPEG or PNG and resizes it to a square.

  Each axis is scaled by itself, as the 0..999 grid of the boxes is.

  Args:
    encoded: the file's bytes.
    size_px: height and width of the result.
    name: of the picture, for the message.
    kernel: of KERNELS; `preprocess.FAMILIES` has each family's.

  Returns:
    uint8[size_px, size_px, 3], RGB.

  Raises:
    ValueError: if it is no picture, or cut short, or the kernel is unknown.
  """
  return resize(read(encoded, name), (size_px, size_px), kernel)


def read(encoded: bytes, name: str = "image") -> np.ndarray:
  """Decodes a JPEG or PNG at its own size, uint8[height, width, 3], RGB.

  Raises:
    ValueError: if it is no picture, or cut short; says its name.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, ValueError) as e:
    raise ValueError(
      f"{name}: cannot decode its {len(encoded)} bytes as a picture ({e})."
      " The file is damaged or cut short: replace it and generate the data"
      " again."
    ) from e


def resize(
  image: np.ndarray, size_px: tuple[int, int], kernel: str
) -> np.ndarray:
  """Scales each axis by itself.

  Args:
    image: uint8[height, width, 3].
    size_px: (height, width) of the result.
    kernel: of KERNELS.

  Returns:
    uint8[*size_px, 3]; the image itself where it has that size.

  Raises:
    ValueError: if the kernel is unknown.
  """
  if kernel not in KERNELS:
    raise ValueError(f"kernel={kernel!r} is not one of {list(KERNELS)}.")
  height, width = size_px
  if image.shape[:2] == (height, width):
    return image
  resized = Image.fromarray(image).resize((width, height), KERNELS[kernel])
  return np.asarray(resized)
