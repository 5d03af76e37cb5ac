"""Measures depth in a photograph of which a second view is known.

One picture says little about distance without a trained network. For the left
picture of a stereo pair, the shift between the two views (the disparity) is
matched from the pixels; distance is its reciprocal.
"""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_gen.tools import _regions, tool

try:
  import cv2
except ImportError as e:
  raise ImportError(
    "depth from stereo needs OpenCV; install the extra: pip install"
    " 'vpd_jax[tools]'"
  ) from e

_MOST_DISPARITY_PX = 128
_BLOCK_PX = 5
_SAME_PICTURE = 3.0  # Mean difference in 0..255 that encoding may cause.


class Tool:
  """compute_depth() -> median distance of the patch; larger is farther.

  The unit is arbitrary: 100 over the disparity in pixels.
  """

  spec = tool.Spec(
    call="compute_depth",
    version="1",
    arguments={},
    result="number",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(
    self,
    pairs: Sequence[Sequence[str]] = (
      ("motorcycle_left.png", "motorcycle_right.png"),
    ),
    image_dir: str = "",
  ):
    """Args:
    pairs: (left, right) file names.
    image_dir: their folder; scikit-image's if empty.
    """
    folder = pathlib.Path(image_dir or _scikit_image_dir())
    self._pairs = [(folder / left, folder / right) for left, right in pairs]

  def prepare(self, image: np.ndarray) -> np.ndarray:
    """Disparity of the whole picture: float32[height, width], pixels."""
    for left, right in self._pairs:
      if _is_same(image, _read(left)):
        return disparity_px(image, _read(right))
    raise ValueError(
      "no depth: this picture has no second view; pairs are"
      f" {[left.name for left, _ in self._pairs]}."
    )

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    patch = _regions.crop(call.prepared, call.box)
    seen = patch[patch > 0]
    if not len(seen):
      raise ValueError("no depth: nothing in this patch could be matched.")
    return float(100 / np.median(seen))


def disparity_px(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """How many pixels further left each pixel is in the right view.

  Args:
    left, right: uint8[height, width, 3], rectified.

  Returns:
    float32[height, width]; 0 or less where there is no match.

  Source: Hirschmüller, Stereo Processing by Semiglobal Matching (2008), as in
  OpenCV.
  """
  smooth = 8 * 3 * _BLOCK_PX**2
  matcher = cv2.StereoSGBM.create(
    minDisparity=0,
    numDisparities=_MOST_DISPARITY_PX,
    blockSize=_BLOCK_PX,
    P1=smooth,
    P2=4 * smooth,
    uniquenessRatio=10,
    speckleWindowSize=100,
    speckleRange=2,
  )
  found = matcher.compute(
    np.ascontiguousarray(left), np.ascontiguousarray(right)
  )
  return found.astype(np.float32) / 16


def _is_same(a, b):
  if a.shape != b.shape:
    return False
  return float(np.abs(a.astype(int) - b).mean()) < _SAME_PICTURE


def _read(path):
  if not path.is_file():
    raise FileNotFoundError(f"no picture {path} for the stereo pair.")
  return np.asarray(Image.open(path).convert("RGB"))


def _scikit_image_dir():
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise FileNotFoundError(
      "the stereo pair comes with scikit-image, which is not installed; run"
      " pip install 'vpd_jax[tools]', or set image_dir."
    )
  return pathlib.Path(spec.origin).parent / "data"
