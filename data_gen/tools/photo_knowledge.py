"""Answers a few questions of common knowledge from a table."""

import re
from collections.abc import Sequence
from typing import Any

from data_gen.tools import tool

# Words that a question must hold -> short answer, sentence.
_FACTS = (
  (("sound", "cat"), "meow", "A cat meows."),
  (("sound", "dog"), "woof", "A dog says woof."),
  (("legs", "cat"), "4", "A cat has four legs."),
  (("legs", "tripod"), "3", "A tripod has three legs."),
  (("coins", "made"), "metal", "Coins are made of metal."),
  (("coffee", "made"), "beans", "Coffee is made from roasted beans."),
  (("wheels", "motorcycle"), "2", "A motorcycle has two wheels."),
  (("fuel", "motorcycle"), "gasoline", "Motorcycles burn gasoline."),
  (("rocket", "go"), "space", "Rockets go to space."),
)


class Tool:
  """language_question_answering(question) -> a word, or a sentence."""

  spec = tool.Spec(
    call="language_question_answering",
    version="1",
    arguments={"question": str, "long_answer": bool},
    result="text",
    uses_pixels=False,
  )

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [
      answer(
        call.arguments["question"], call.arguments.get("long_answer", False)
      )
      for call in calls
    ]


def answer(question: str, long_answer: bool = False) -> str:
  """The first fact whose words the question holds.

  Raises:
    ValueError: if the table has none.
  """
  words = set(re.findall(r"[a-z]+", question.lower()))
  for needed, short, sentence in _FACTS:
    if words.issuperset(needed):
      return sentence if long_answer else short
  raise ValueError(
    f"does not know {question!r}; it knows of"
    f" {', '.join(' and '.join(needed) for needed, _, _ in _FACTS)}."
  )
