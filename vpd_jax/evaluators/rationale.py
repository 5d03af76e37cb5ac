"""Reads a decoded rationale: the answer that it ends in.

Needs nothing beyond the standard library.
"""

import re

_CONCLUSION = re.compile(r"answer is:?\s+(.+?)\s*\.?\s*$", re.IGNORECASE)


def answer_of(text: str) -> str:
  """The answer that a rationale ends in; "" if it ends in none.

  A short rationale ends in its last group, one in sentences in "the answer is
  ...":

  >>> answer_of("21 62 229 271 ; 354 62 562 271 ; 1")
  '1'
  >>> answer_of("The cat is at 1 2 3 4. So the answer is gray.")
  'gray'
  """
  conclusion = _CONCLUSION.search(text)
  if conclusion:
    return conclusion.group(1)
  _, separator, last = text.rpartition(";")
  return last.strip() if separator else ""
