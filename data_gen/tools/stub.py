"""Canned answers for every call, to try programs without image models.

    config.tools.find = dict(name="stub", call="find")

The answers depend on the arguments and the box alone, and mean nothing:
`find` gives two boxes side by side, and none for a name with "no" before it;
questions that can be answered with yes are; a property holds unless it begins
with "no" or "un"; shorter texts match better, and further to the left; depth
grows with the height in the image.
"""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import api, tool

_YES_NO = (
  "is",
  "are",
  "was",
  "were",
  "does",
  "do",
  "did",
  "has",
  "have",
  "can",
)


class Tool:
  """A tool for any call of the API that looks at no pixels.

  Args:
    call: which call it answers.

  Raises:
    ValueError: if the API has no such call.
  """

  def __init__(self, call: str):
    if call not in api.CALLS:
      raise ValueError(f"no call {call!r}; the API has {sorted(api.CALLS)}")
    shape = api.CALLS[call]
    self.spec = tool.Spec(
      call=call,
      version="1",
      arguments=dict(shape.arguments),
      result=shape.result,
      uses_pixels=False,
      batch_limit=64,
    )

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._answer(call) for call in calls]

  def _answer(self, call):
    y1, x1, y2, x2 = call.box
    name = self.spec.call
    if name == "find":
      if call.arguments["object_name"].split()[0] == "no" or x2 - x1 < 2:
        return []
      middle = (x1 + x2) // 2
      return [[y1, x1, y2, middle], [y1, middle, y2, x2]]
    if name == "compute_depth":
      return 1.0 - y2 / 1000
    if name == "image_caption":
      return "a stub caption"
    if name == "ocr":
      return "STUB"
    if name == "verify_property":
      return not call.arguments["attribute"].lower().startswith(("no", "un"))
    if name == "match_scores":
      return [_score(text, call.box) for text in call.arguments["texts"]]
    words = call.arguments["question"].lower().split()
    if words[0] in _YES_NO:
      return "yes"
    if words[:2] == ["how", "many"]:
      return "2"
    return "red" if "color" in words else "stub"


def _score(text, box):
  return 1 / (1 + len(text)) - box[1] / 1e6
