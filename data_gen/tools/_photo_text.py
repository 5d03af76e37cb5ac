"""Reads printed text in photographs with Tesseract (a system package)."""

import dataclasses
import shutil

import numpy as np

try:
  import cv2
  import pytesseract
except ImportError as e:
  raise ImportError(
    "reading text in photos needs OpenCV and pytesseract; install the extra:"
    " pip install 'vpd_jax[tools]'"
  ) from e

_LEAST_CONFIDENCE = 40
_WORK_HEIGHT_PX = 560


@dataclasses.dataclass(frozen=True)
class Word:
  """A word that was read: text, its line's number and box in pixels."""

  text: str
  line: int
  box_yxyx_px: tuple[float, float, float, float]


def has_tesseract() -> bool:
  """Whether the tesseract program is installed."""
  return shutil.which("tesseract") is not None


def read_words(image: np.ndarray) -> list[Word]:
  """The words in an image, in reading order.

  The picture is made larger and its uneven light is divided out first.

  Args:
    image: uint8[height, width, 3].

  Raises:
    RuntimeError: if the tesseract program is missing.
  """
  if not has_tesseract():
    raise RuntimeError(
      "the program 'tesseract' is not installed; install the system package"
      " tesseract-ocr."
    )
  gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
  light = cv2.GaussianBlur(gray, (0, 0), 15)
  flat = gray / np.maximum(light, 1) * 200
  flat = np.clip(flat, 0, 255).astype(np.uint8)
  scale = min(4.0, max(1.0, _WORK_HEIGHT_PX / gray.shape[0]))
  large = cv2.resize(
    flat, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC
  )
  table = pytesseract.image_to_data(
    large, config="--psm 6", output_type=pytesseract.Output.DICT
  )
  words = []
  lines = {}
  for i, text in enumerate(table["text"]):
    if not text.strip() or float(table["conf"][i]) < _LEAST_CONFIDENCE:
      continue
    line = (table["block_num"][i], table["par_num"][i], table["line_num"][i])
    y, x = table["top"][i], table["left"][i]
    y2, x2 = y + table["height"][i], x + table["width"][i]
    words.append(
      Word(
        text=text.strip(),
        line=lines.setdefault(line, len(lines)),
        box_yxyx_px=(y / scale, x / scale, y2 / scale, x2 / scale),
      )
    )
  return words


def word_boxes(image: np.ndarray) -> list[tuple[float, float, float, float]]:
  """The box of each word, in pixels."""
  return [word.box_yxyx_px for word in read_words(image)]


def line_boxes(image: np.ndarray) -> list[tuple[float, float, float, float]]:
  """The box around each line's words, in pixels."""
  lines: dict[int, list[tuple[float, ...]]] = {}
  for word in read_words(image):
    lines.setdefault(word.line, []).append(word.box_yxyx_px)
  return [
    (
      min(b[0] for b in boxes),
      min(b[1] for b in boxes),
      max(b[2] for b in boxes),
      max(b[3] for b in boxes),
    )
    for boxes in lines.values()
  ]
