"""Finds things in photographs with detectors that need no download.

OpenCV 4.x bundles the trained cascades (5.0 dropped them); circles, lights
and coloured areas are classic image processing; text lines come from
Tesseract. Each detector: uint8[height, width, 3] -> boxes y1 x1 y2 x2 in
pixels, ends exclusive.
"""

import numpy as np

from data_gen.tools import _photo_colors, _photo_text

try:
  import cv2
except ImportError as e:
  raise ImportError(
    "the photo tools need OpenCV; install the extra: pip install"
    " 'vpd_jax[tools]'"
  ) from e

BoxPx = tuple[float, float, float, float]

_NOUNS = {
  "face": ("face", "faces"),
  "person": (
    *("person", "people", "persons", "man", "men", "woman", "women"),
    *("astronaut", "photographer", "cameraman", "human"),
  ),
  "eye": ("eye", "eyes"),
  "cat": ("cat", "cats", "animal", "animals", "kitten", "pet"),
  "circle": ("circle", "circles", "coin", "coins"),
  "light": ("light", "lights", "lamp", "lamps", "bright spot", "star", "stars"),
  "line": ("line", "lines", "line of text", "lines of text", "text line"),
  "word": ("word", "words", "text", "writing"),
}
_AREA_NOUNS = {"object", "thing", "area", "region", "part", "patch", ""}
_LEAST_AREA_SHARE = 0.002


def known_nouns() -> list[str]:
  """Every noun that `detect` answers, without the coloured areas."""
  return sorted(noun for nouns in _NOUNS.values() for noun in nouns)


def detect(image: np.ndarray, name: str) -> list[BoxPx]:
  """Boxes of the things called `name`, such as "face" or "red object".

  Raises:
    ValueError: if there is no detector for them; lists those that exist.
  """
  words = name.lower().strip().split()
  if words and _photo_colors.is_name(words[0]):
    if " ".join(words[1:]) in _AREA_NOUNS:
      return _colored_areas(image, words[0])
  detectors = {
    "face": _faces,
    "person": _people,
    "eye": _eyes,
    "cat": _cats,
    "circle": _circles,
    "light": _lights,
    "line": _photo_text.line_boxes,
    "word": _photo_text.word_boxes,
  }
  for kind, nouns in _NOUNS.items():
    if " ".join(words) in nouns:
      return detectors[kind](image)
  raise ValueError(
    f"no detector for {name!r}; there are detectors for"
    f" {', '.join(known_nouns())}, and '<color> object'."
  )


def _gray(image):
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _cascade(gray, file_name, **options):
  # OpenCV's type stub leaves out cv2.data.
  folder = cv2.data.haarcascades  # pyright: ignore[reportAttributeAccessIssue]
  found = cv2.CascadeClassifier(folder + file_name).detectMultiScale(
    gray, **options
  )
  return [(y, x, y + h, x + w) for x, y, w, h in np.reshape(found, (-1, 4))]


def _faces(image):
  gray = cv2.equalizeHist(_gray(image))
  size = max(24, min(gray.shape) // 12)
  options = {"scaleFactor": 1.1, "minSize": (size, size)}
  front = _cascade(
    gray, "haarcascade_frontalface_alt2.xml", minNeighbors=5, **options
  )
  side = _cascade(
    gray, "haarcascade_profileface.xml", minNeighbors=4, **options
  )
  mirrored = _cascade(
    np.ascontiguousarray(gray[:, ::-1]),
    "haarcascade_profileface.xml",
    minNeighbors=4,
    **options,
  )
  width = gray.shape[1]
  side += [(y1, width - x2, y2, width - x1) for y1, x1, y2, x2 in mirrored]
  return _without_overlaps(front + side)


def _people(image):
  """Whole figures by HOG, else bodies grown from faces (3 by 7 heads)."""
  hog = cv2.HOGDescriptor()
  people = np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32)
  hog.setSVMDetector(people)
  found, scores = hog.detectMultiScale(image, winStride=(8, 8), scale=1.05)
  figures = [
    (y, x, y + h, x + w)
    for (x, y, w, h), score in zip(np.reshape(found, (-1, 4)), np.ravel(scores))
    if score > 1
  ]
  height, width = image.shape[:2]
  for y1, x1, _, x2 in _faces(image):
    head = x2 - x1
    figures.append(
      (
        max(0, y1 - head / 4),
        max(0, x1 - head),
        min(height, y1 + 7 * head),
        min(width, x2 + head),
      )
    )
  return _without_overlaps(figures)


def _eyes(image):
  """Eyes, each inside a found face."""
  gray = _gray(image)
  eyes = []
  for y1, x1, y2, x2 in _faces(image):
    upper = gray[y1 : (y1 + 2 * y2) // 3, x1:x2]
    eyes += [
      (a + y1, b + x1, c + y1, d + x1)
      for a, b, c, d in _cascade(
        upper, "haarcascade_eye.xml", scaleFactor=1.1, minNeighbors=5
      )
    ]
  return eyes


def _cats(image):
  """Cat faces, upright or a little tilted, that fill much of the picture.

  The picture is made small and gets a border, as the cascade misses faces
  that are cut off; each tilt is tried by turning the picture back.
  """
  gray = _gray(image)
  scale = min(1, 225 / max(gray.shape))
  small = cv2.resize(gray, None, fx=scale, fy=scale)
  edge = max(small.shape) // 3
  wide = cv2.copyMakeBorder(small, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
  size = min(small.shape) // 2
  height, width = wide.shape
  boxes = []
  for tilt_deg in (0, -10, 10):
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), tilt_deg, 1)
    back = cv2.invertAffineTransform(turn)
    for y1, x1, y2, x2 in _cascade(
      cv2.warpAffine(wide, turn, (width, height)),
      "haarcascade_frontalcatface_extended.xml",
      scaleFactor=1.05,
      minNeighbors=3,
      minSize=(size, size),
    ):
      x, y = back @ ((x1 + x2) / 2, (y1 + y2) / 2, 1)
      half = (y2 - y1) / 2
      boxes.append(
        (
          max(0, (y - half - edge) / scale),
          max(0, (x - half - edge) / scale),
          min(gray.shape[0], (y + half - edge) / scale),
          min(gray.shape[1], (x + half - edge) / scale),
        )
      )
  return _without_overlaps(boxes)


def _circles(image):
  """Round things of about one size, such as coins, by the Hough transform."""
  side = min(image.shape[:2])
  gray = cv2.medianBlur(_gray(image), 5)
  found = cv2.HoughCircles(
    gray,
    cv2.HOUGH_GRADIENT,
    dp=1.2,
    minDist=side / 12,
    param1=100,
    param2=28,
    minRadius=side // 30,
    maxRadius=side // 8,
  )
  if found is None:
    return []
  height, width = gray.shape
  return [
    (max(0, y - r), max(0, x - r), min(height, y + r), min(width, x + r))
    for x, y, r in found[0].tolist()
  ]


def _lights(image):
  """Small spots far brighter than what is around them."""
  gray = cv2.GaussianBlur(_gray(image), (0, 0), 1.5)
  return [
    box
    for box in _components(gray > 225, least_px=12)
    if max(box[2] - box[0], box[3] - box[1]) < min(gray.shape) / 8
  ]


def _colored_areas(image, color):
  """Connected areas of one colour that cover 0.2 % of the picture or more."""
  mask = _photo_colors.mask_of(image, color).astype(np.uint8)
  size = max(3, min(mask.shape) // 100) | 1
  kernel = np.ones((size, size), np.uint8)
  mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
  mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
  return _components(mask > 0, least_px=round(_LEAST_AREA_SHARE * mask.size))


def _components(mask, least_px):
  """Boxes of the connected parts of a mask, the largest part first."""
  _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
  parts = [row for row in stats[1:].tolist() if row[4] >= least_px]
  parts.sort(key=lambda row: -row[4])
  return [(y, x, y + h, x + w) for x, y, w, h, _ in parts]


def _without_overlaps(boxes):
  """Leaves out a box if half of the smaller one lies in an earlier box."""
  kept = []
  for box in boxes:
    if all(_overlap_share(box, other) < 0.5 for other in kept):
      kept.append(box)
  return kept


def _overlap_share(a, b):
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  if height <= 0 or width <= 0:
    return 0.0
  area = min((y2 - y1) * (x2 - x1) for y1, x1, y2, x2 in (a, b))
  return height * width / area
