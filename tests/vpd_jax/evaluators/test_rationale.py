"""The answer that a rationale ends in."""

import pytest

from vpd_jax.evaluators import rationale


@pytest.mark.parametrize(
  "text,answer",
  [
    ("21 62 229 271 ; 354 62 562 271 ; 1", "1"),
    ("none ; 1 2 3 4 ; 0 1 ; no", "no"),
    ("The cat is at 1 2 3 4. So the answer is gray.", "gray"),
    ("The answer is: two dogs", "two dogs"),
    ("red", ""),
    ("", ""),
  ],
)
def test_answer_of(text, answer):
  assert rationale.answer_of(text) == answer
