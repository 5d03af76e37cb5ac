"""A program's trace: typed steps, in the order in which they happened."""

import dataclasses
from typing import Any

PRINT = "print"
OUTPUT = "formatting_answer"


@dataclasses.dataclass(frozen=True)
class Event:
  """One step of a program: a tool call, a printed fact, or its output.

  Attributes:
    step: 0, 1, 2, ... within the trace.
    line: of the program, from 1; 0 if unknown.
    tool: the call's name in the API ("find"), PRINT or OUTPUT.
    box: the crop that was looked at, y1 x1 y2 x2 on the 0..999 grid; None for
      a step that looks at no image.
    arguments: by name, plain values.
    value: what came back: text, number, bool, or a list of boxes for "find";
      for PRINT the printed text.
    text: the step as one readable line, such as
      "find('car') -> 3 found: 434 226 562 330 and ...".
  """

  step: int
  line: int
  tool: str
  box: tuple[int, int, int, int] | None
  arguments: dict[str, Any]
  value: Any
  text: str
