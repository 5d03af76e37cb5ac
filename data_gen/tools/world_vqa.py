"""Answers simple questions about a patch of the embedded world."""

import re
from collections.abc import Sequence

from data_gen.tools import (
  _world_center,
  _world_language,
  _world_pixels,
  _world_tool,
  tool,
)

NOTHING = "nothing"


class Tool(_world_tool.WorldTool):
  """visual_question_answering(question) -> a word or two.

  Reads the patch as a small VQA model does: it sees things, their colours and
  kinds, and takes no notice of relations. Of several things that fit the
  question's first noun it means the one nearest to the patch's middle.
  """

  spec = tool.Spec(
    call="visual_question_answering",
    version="1",
    arguments={"question": str},
    result="text",
    uses_pixels=True,
    batch_limit=64,
  )

  def _run(self, call):
    question = call.arguments["question"].lower().strip()
    things = _world_center.most_central_first(self._things(call), call.box)
    return answer(question, things)


def answer(question: str, things: Sequence[_world_pixels.Thing]) -> str:
  """Answers from the things in a patch, the most central first.

  Raises:
    ValueError: for a question of a form that it does not know.
  """
  mentioned = _world_language.phrases_in(question)
  fitting = _world_language.select(things, mentioned[0]) if mentioned else []
  meant = (fitting or [*things, None])[0]
  if re.match(r"how many|count|what is the number", question):
    return str(len(fitting if mentioned else things))
  if re.search(r"\bcolou?r\b", question):
    return meant.color if meant else NOTHING
  if re.search(r"\bshape\b|\bkind\b|what type", question):
    return meant.kind if meant else NOTHING
  if re.match(r"is there|are there|does the (image|picture) show", question):
    return _yes(bool(fitting))
  if re.match(r"(is|are) (it|this|that|these|the|they)\b", question):
    return _yes(meant is not None and _is_so(question, meant))
  if re.match(r"what (is|are|thing|object)|which", question):
    return _world_language.describe(meant) if meant else NOTHING
  raise ValueError(
    f"cannot answer {question!r}; ask what color, what shape, what it is,"
    " whether it is one, whether there is one, or how many."
  )


def _is_so(question, thing):
  """Whether the last colour or kind that is asked about is the thing's."""
  words = re.findall(r"[a-z]+", question)
  colors = [word for word in words if word in _world_pixels.COLORS]
  kinds = [kind for _, kind in _world_language.phrases_in(question) if kind]
  return (not colors or colors[-1] == thing.color) and (
    not kinds or kinds[-1] == thing.kind
  )


def _yes(is_true):
  return "yes" if is_true else "no"
