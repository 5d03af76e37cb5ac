"""Encoded picture -> pixels of the size the model takes.

Pixels stay uint8 up to the device, where the step scales them: a batch is a
quarter of the bytes. Orientation tags are ignored: boxes in the records were
measured on the pixels as stored.
"""

import io

import numpy as np
from PIL import Image


def decode(encoded: bytes, size_px: int, name: str = "image") -> np.ndarray:
  """Decodes a JPEG or PNG and resizes it to a square.

  Each axis is scaled by itself, as the 0..999 grid of the boxes is.

  Args:
    encoded: the file's bytes.
    size_px: height and width of the result.
    name: of the picture, for the message.

  Returns:
    uint8[size_px, size_px, 3], RGB.

  Raises:
    ValueError: if it is no picture, or cut short.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      rgb = image.convert("RGB")
  except (OSError, SyntaxError, ValueError) as e:
    raise ValueError(
      f"{name}: cannot decode its {len(encoded)} bytes as a picture ({e})."
      " The file is damaged or cut short: replace it and generate the data"
      " again."
    ) from e
  if rgb.size != (size_px, size_px):
    rgb = rgb.resize((size_px, size_px), Image.Resampling.BICUBIC)
  return np.asarray(rgb)
