"""Reads printed text in a patch of a photograph, with Tesseract."""

from collections.abc import Sequence
from typing import Any

from data_gen.tools import _memory, _photo_text, _regions, tool


class Tool:
  """ocr() -> the words of the patch in reading order; "" if there are none.

  The whole picture is read once; a patch has the words whose centres are in
  it.
  """

  spec = tool.Spec(
    call="ocr",
    version="1",
    arguments={},
    result="text",
    uses_pixels=True,
    batch_limit=16,
  )

  def __init__(self):
    self._words: _memory.Memory[list[_photo_text.Word]] = _memory.Memory()

  def run_batch(self, calls: Sequence[tool.Call]) -> list[Any]:
    return [self._run(call) for call in calls]

  def _run(self, call):
    words = self._words.get(
      call.image_key, lambda: _photo_text.read_words(call.image)
    )
    return " ".join(
      word.text
      for word in words
      if _regions.inside(
        _regions.to_grid(call.image.shape, word.box_yxyx_px), call.box
      )
    )
