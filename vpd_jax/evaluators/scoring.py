"""Pure scorers on strings: answers that agree, and boxes named in a text.

Needs nothing beyond the standard library; data_gen filters with the same
functions that the evaluators score with.
"""

import re
from collections.abc import Sequence

Box = tuple[int, int, int, int]  # y1 x1 y2 x2 on the 0..999 grid, top left.

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = {
  word: str(number)
  for number, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve"
    " thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
    " twenty".split()
  )
} | {"none": "0"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_APOSTROPHES = re.compile(r"['’`]")
_PUNCTUATION = re.compile(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-|[^\w\s.-]|_")
# A run of numbers that a text separates by blanks only.
_NUMBERS = re.compile(r"(?<![\w.-])\d+(?:[ \t]+\d+)*(?![\w-]|\.\d)")


def normalize(answer: str) -> str:
  """An answer without what does not matter: "The  Cats." -> "cats".

  Lower case; number words as digits; no articles, no punctuation except a
  decimal point or a minus sign. An answer of articles alone ("A", as read off
  a sign) keeps them.

  Source: the steps of VQA's evaluation (Antol et al., arXiv:1505.00468);
  there contractions are spelled out from a table, here an apostrophe is
  dropped on both sides.
  """
  text = _APOSTROPHES.sub("", answer.lower())
  text = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", text))
  words = [_NUMBER_WORDS.get(word, word) for word in text.split()]
  return " ".join([w for w in words if w not in _ARTICLES] or words)


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
  """Whether `prediction` equals one of `answers` once both are normalised.

  A prediction with nothing in it equals nothing.
  """
  wanted = normalize(prediction)
  return bool(wanted) and any(wanted == normalize(a) for a in answers)


def boxes_in(text: str) -> list[Box]:
  """Boxes "y1 x1 y2 x2" in a text, in reading order.

  A box is a run of exactly four integers in 0..999 with nothing but blanks
  between them; longer and shorter runs are no boxes.
  """
  boxes = []
  for run in _NUMBERS.findall(text):
    numbers = [int(n) for n in run.split()]
    if len(numbers) == 4 and max(numbers) <= 999:
      boxes.append(tuple(numbers))
  return boxes


def box_iou(a: Box, b: Box) -> float:
  """Intersection over union of two boxes y1 x1 y2 x2; 0 for an empty one."""
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  if height <= 0 or width <= 0:
    return 0.0
  union = _area(a) + _area(b) - height * width
  return height * width / union


def _area(box: Box) -> int:
  return max(0, box[2] - box[0]) * max(0, box[3] - box[1])
