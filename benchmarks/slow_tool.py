"""An embedded tool that takes as long as a model: for `benchmarks/engine.py`."""

import time
from collections.abc import Sequence
from typing import Any

from data_gen.tools import (
  tool,
  world_depth,
  world_find,
  world_ocr,
  world_vqa,
)

BATCH_S, ITEM_S = 0.020, 0.002
_TOOLS = {
  "find": world_find.Tool,
  "visual_question_answering": world_vqa.Tool,
  "compute_depth": world_depth.Tool,
  "ocr": world_ocr.Tool,
}


class Tool:
  """Answers as the embedded world's tool does, BATCH_S + n ITEM_S later.

  Args:
    call: which tool.
  """

  def __init__(self, call: str):
    self._tool = _TOOLS[call]()
    self.spec = self._tool.spec

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    time.sleep(BATCH_S + ITEM_S * len(calls))
    return self._tool.run_batch(calls)
