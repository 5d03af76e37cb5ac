"""Answers a few questions of common knowledge from a table."""

import re

from data_gen.tools import _knowledge_tool

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


class Tool(_knowledge_tool.KnowledgeTool):
  """Gives the first fact whose words the question holds."""

  def answer(self, question: str, long_answer: bool = False) -> str:
    words = set(re.findall(r"[a-z]+", question.lower()))
    for needed, short, sentence in _FACTS:
      if words.issuperset(needed):
        return sentence if long_answer else short
    raise ValueError(
      f"does not know {question!r}; it knows of"
      f" {', '.join(' and '.join(needed) for needed, _, _ in _FACTS)}."
    )
