"""The typeface of the embedded world's signs: letters of 3 x 5 dots."""

import types

import numpy as np

# Rows of 3-pixel-wide, 5-pixel-high letters, a bit per pixel, left is 4.
FONT = types.MappingProxyType(
  {
    "a": (2, 5, 7, 5, 5),
    "b": (6, 5, 6, 5, 6),
    "c": (3, 4, 4, 4, 3),
    "d": (6, 5, 5, 5, 6),
    "e": (7, 4, 6, 4, 7),
    "f": (7, 4, 6, 4, 4),
    "g": (3, 4, 5, 5, 3),
    "h": (5, 5, 7, 5, 5),
    "i": (7, 2, 2, 2, 7),
    "j": (1, 1, 1, 5, 2),
    "k": (5, 5, 6, 5, 5),
    "l": (4, 4, 4, 4, 7),
    "m": (5, 7, 7, 5, 5),
    "n": (6, 5, 5, 5, 5),
    "o": (7, 5, 5, 5, 7),
    "p": (6, 5, 6, 4, 4),
    "q": (2, 5, 5, 6, 3),
    "r": (6, 5, 6, 6, 5),
    "s": (3, 4, 2, 1, 6),
    "t": (7, 2, 2, 2, 2),
    "u": (5, 5, 5, 5, 7),
    "v": (5, 5, 5, 5, 2),
    "w": (5, 5, 7, 7, 5),
    "x": (5, 5, 2, 5, 5),
    "y": (5, 5, 2, 2, 2),
    "z": (7, 1, 2, 4, 7),
  }
)


def word_mask(word: str, scale: int) -> np.ndarray:
  """Where the letters of a word are: bool[5 * scale, (4 * len - 1) * scale]."""
  rows = [
    [
      bool(FONT[letter][y] >> (2 - x) & 1) if x < 3 else False
      for letter in word
      for x in range(4)
    ][:-1]
    for y in range(5)
  ]
  return np.kron(np.array(rows), np.ones((scale, scale), bool)).astype(bool)
