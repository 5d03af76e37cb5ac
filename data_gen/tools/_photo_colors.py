"""Colour words for the pixels of photographs."""

import numpy as np

NAMES = (
  "black",
  "gray",
  "white",
  "red",
  "orange",
  "yellow",
  "green",
  "blue",
  "purple",
  "pink",
  "brown",
)
_INDEX = {name: i for i, name in enumerate(NAMES)}
_ACHROMATIC = 3  # The first three names.
_HUE_ENDS_DEG = (  # A colour's hues end here; red starts again at 345.
  (12, "red"),
  (42, "orange"),
  (70, "yellow"),
  (165, "green"),
  (255, "blue"),
  (290, "purple"),
  (345, "pink"),
)


def is_name(word: str) -> bool:
  """Whether a word is a colour that these functions know."""
  return word in _INDEX or word == "grey"


def name_pixels(image: np.ndarray) -> np.ndarray:
  """The colour of each pixel, by fixed limits in hue, saturation and value.

  Args:
    image: uint8[..., 3].

  Returns:
    int8[...], indices into NAMES.
  """
  rgb = image.astype(np.float32) / 255
  high = rgb.max(axis=-1)
  low = rgb.min(axis=-1)
  chroma = high - low
  safe = np.maximum(chroma, 1e-6)
  red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
  hue_deg = 60 * np.select(
    [high == red, high == green],
    [((green - blue) / safe) % 6, (blue - red) / safe + 2],
    (red - green) / safe + 4,
  )
  saturation = chroma / np.maximum(high, 1e-6)
  ends = np.array([end for end, _ in _HUE_ENDS_DEG], np.float32)
  by_hue = np.array([_INDEX[n] for _, n in _HUE_ENDS_DEG] + [_INDEX["red"]])
  names = by_hue[np.searchsorted(ends, hue_deg, side="right")]
  is_warm = (hue_deg < 50) | (hue_deg >= 345)
  names = np.where(
    is_warm & (hue_deg < 50) & (hue_deg >= 12) & (high < 0.62),
    _INDEX["brown"],
    names,
  )
  names = np.where(
    is_warm & (saturation < 0.45) & (high >= 0.62), _INDEX["pink"], names
  )
  is_plain = (saturation < 0.2) | (chroma < 0.08)
  grays = np.select([high < 0.22, high > 0.8], [0, 2], 1)
  names = np.where(is_plain, grays, names)
  return np.where(high < 0.15, _INDEX["black"], names).astype(np.int8)


def mask_of(image: np.ndarray, name: str) -> np.ndarray:
  """bool[...]: the pixels that have the colour `name`.

  Raises:
    ValueError: if the colour is unknown; lists the known ones.
  """
  name = "gray" if name == "grey" else name
  if name not in _INDEX:
    raise ValueError(f"unknown color {name!r}; known are {', '.join(NAMES)}.")
  return name_pixels(image) == _INDEX[name]


def shares(image: np.ndarray) -> dict[str, float]:
  """The share of each colour in a crop; pixels in the middle count most."""
  names = name_pixels(image)
  y = np.linspace(-1, 1, names.shape[0])[:, None]
  x = np.linspace(-1, 1, names.shape[1])[None, :]
  weight = np.exp(-(x**2 + y**2))
  total = np.bincount(names.ravel(), weight.ravel(), minlength=len(NAMES))
  return dict(zip(NAMES, (total / total.sum()).tolist()))


def main_name(image: np.ndarray) -> str:
  """The colour that covers most of a crop."""
  by_name = shares(image)
  return max(by_name, key=by_name.__getitem__)


def most_vivid_name(image: np.ndarray, least_share: float = 0.15) -> str:
  """The largest colour that is not black, gray or white, if it is large."""
  by_name = shares(image)
  vivid = max(NAMES[_ACHROMATIC:], key=by_name.__getitem__)
  return vivid if by_name[vivid] >= least_share else main_name(image)
