"""Answers questions about the embedded world's kinds from a small table."""

import re

from data_gen.tools import _knowledge_tool, _world_language

# Kind: corners, straight sides, does it roll. A cross is an outline of 12
# corners; a star has four points and four inner corners.
_FACTS = (
  ("square", 4, 4, False),
  ("circle", 0, 0, True),
  ("triangle", 3, 3, False),
  ("cross", 12, 12, False),
  ("diamond", 4, 4, False),
  ("ring", 0, 0, True),
  ("star", 8, 8, False),
  ("sign", 4, 4, False),
)


class Tool(_knowledge_tool.KnowledgeTool):
  """Looks up the first kind that the question names."""

  def answer(self, question: str, long_answer: bool = False) -> str:
    kinds = [kind for _, kind in _world_language.phrases_in(question) if kind]
    facts = {kind: rest for kind, *rest in _FACTS}
    if not kinds:
      raise ValueError(
        f"knows nothing about {question!r}; name one of {', '.join(facts)}."
      )
    kind = kinds[0]
    corners, sides, rolls = facts[kind]
    text = question.lower()
    if re.search(r"corner|vert|points?\b", text):
      return f"A {kind} has {corners} corners." if long_answer else str(corners)
    if re.search(r"\b(sides?|edges?)\b", text):
      return f"A {kind} has {sides} sides." if long_answer else str(sides)
    if re.search(r"\b(roll|rolls|rolling|round)\b", text):
      if long_answer:
        return f"A {kind} {'can' if rolls else 'cannot'} roll."
      return "yes" if rolls else "no"
    raise ValueError(
      f"does not know {question!r}; it knows corners, sides, and what rolls."
    )
