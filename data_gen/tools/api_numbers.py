"""Reads the first number of a text, in digits or in words.

    first_number("about 1,200 people")  # 1200
    first_number("twenty-five")         # 25
    first_number("25to26")              # 25

Standard library only: the contained worker runs it.
"""

import itertools
import re
import types
from collections.abc import Mapping

_UNITS = """zero one two three four five six seven eight nine ten eleven twelve
  thirteen fourteen fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_MONTHS = """january february march april may june july august september october
  november december""".split()
_SMALL: Mapping[str, int] = types.MappingProxyType(
  {word: value for value, word in enumerate(_UNITS)}
  | {word: 10 * value for value, word in enumerate(_TENS, start=2)}
)
_SCALES: Mapping[str, int] = types.MappingProxyType(
  {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
)

# A minus counts at the start of a word only, as 10-15 is a range. A comma
# belongs to the number if three digits follow it, as in 1,200.
_TOKEN = re.compile(
  r"(?P<digits>(?:(?<![\w.)])-)?"
  r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+))|[a-z]+",
  re.ASCII,
)
_DATE = re.compile(
  rf"\b(?:{'|'.join(_MONTHS)})\.?,?\s+"
  r"(?:\d{1,2}(?:st|nd|rd|th)?,?\s+)?(\d{4})\b",
  re.ASCII,
)


def first_number(text: str) -> int | float | None:
  """The first number in a text; None if there is none.

  Digits may have a sign, a decimal point, commas between thousands and a word
  such as "million" after them. A date with a month's name counts as its year.
  """
  text = text.lower()
  date = _DATE.search(text)
  if date:
    return int(date[1])
  tokens = list(_TOKEN.finditer(text))
  for start, token in enumerate(tokens):
    if token["digits"]:
      return _scaled(token["digits"], tokens[start + 1 : start + 2])
    if token[0] in _SMALL or token[0] in _SCALES:
      return _words_value(_run(text, tokens[start:]))
  return None


def whole_number(text: str) -> int | None:
  """The whole number that a text is, as "7" or "twenty one"; None if it is
  anything else."""
  text = text.lower()
  if text.isascii() and text.isdigit():
    return int(text)
  tokens = list(_TOKEN.finditer(text))
  if not tokens or tokens[0][0] not in [*_SMALL, *_SCALES]:
    return None
  words = _run(text, tokens)
  return _words_value(words) if re.split("[ -]", text) == words else None


def _scaled(digits, next_tokens):
  digits = digits.replace(",", "")
  value = float(digits) if "." in digits else int(digits)
  for token in next_tokens:
    value *= _SCALES.get(token[0], 1)
  return value


def _run(text, tokens):
  """The words from the first token on that make one number."""
  words = [tokens[0][0]]
  for before, token in itertools.pairwise(tokens):
    gap, word = text[before.end() : token.start()], token[0]
    if gap not in (" ", "-") or not _goes_on(words[-1], word):
      break
    words.append(word)
  return words


def _goes_on(before, word):
  """Whether a word goes on with a number: "twenty five", not "one two"."""
  if word in _SCALES:
    return before != "and"
  if word == "and":
    return before in _SCALES
  if word not in _SMALL:
    return False
  is_unit_after_ten = before in _TENS and 0 < _SMALL[word] < 10
  return before in _SCALES or before == "and" or is_unit_after_ten


def _words_value(words):
  total, current = 0, 0
  for word in words:
    if word == "hundred":
      current = max(current, 1) * 100
    elif word in _SCALES:
      total, current = total + max(current, 1) * _SCALES[word], 0
    else:
      current += _SMALL.get(word, 0)  # "and" adds nothing.
  return total + current
