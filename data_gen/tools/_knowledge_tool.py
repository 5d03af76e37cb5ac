"""What the tools that answer from a table of knowledge have in common."""

import abc
from collections.abc import Sequence
from typing import Any

from data_gen.tools import tool


class KnowledgeTool(abc.ABC):
  """language_question_answering(question) -> a word, or a sentence."""

  spec = tool.Spec(
    call="language_question_answering",
    version="1",
    arguments={"question": str, "long_answer": bool},
    result="text",
    uses_pixels=False,
    batch_limit=64,
  )

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self.answer(**call.arguments) for call in calls]

  @abc.abstractmethod
  def answer(self, question: str, long_answer: bool = False) -> str:
    """A word, or a sentence if `long_answer`.

    Raises:
      ValueError: if the table does not hold it.
    """
