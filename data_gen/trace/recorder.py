"""Writes a program's trace on the host, out of what the worker asks and says.

Text from programs and tools is escaped here, once, on its way into an `Event`
or a message: nobody downstream needs to, and a second pass changes nothing.
"""

import re
import unicodedata
from typing import Any

from data_gen.tools import api
from data_gen.trace import events

MAX_TEXT_CHARS = 2000
_CUT = "[cut]"
# Tokens that mean something to a tokenizer, and markup: "</s>", "<pad>",
# "<extra_id_0>", "<0x0A>", "<|end|>", "<<SYS>>", "[INST]", "<script>".
_SPECIAL = re.compile(
  r"[<\uff1c](?=[A-Za-z0-9/|!?<\uff5c])|\[(?=/?[A-Z_]{2,}\])"
)
# A printed line that would read as a step of another kind.
_FORGED = re.compile(r"program\s+output\s*:|\w\s*\(.*\).*->", re.IGNORECASE)
# Where in memory an object is: another place each time.
_ADDRESS = re.compile(r"(?<= at )0x[0-9a-f]+")


def clean(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
  """Text as it may enter a row: one line, no control characters, no tokens.

  Control, format and surrogate characters and line ends become visible
  escapes ("\\n" is a backslash and an n), "<" of a token or tag gets a space
  behind it, and the end is cut at `max_chars`. `clean(clean(x)) == clean(x)`.
  """
  text = text[: max_chars + 1]
  if not text.isascii() or not text.isprintable():
    text = "".join(map(_visible, text))
  text = _SPECIAL.sub(lambda match: match.group() + " ", text)
  text = _ADDRESS.sub("0x", text)
  if len(text) > max_chars:
    text = text[: max_chars - len(_CUT)] + _CUT
  return text


def clean_value(value: Any) -> Any:
  """A plain value with every text in it clean; see `clean`."""
  if isinstance(value, str):
    return clean(value)
  if isinstance(value, list | tuple):
    return [clean_value(v) for v in value]
  if isinstance(value, dict):
    return {clean(k): clean_value(v) for k, v in value.items()}
  return value


class Recorder:
  """The trace of one run; steps are numbered as they are recorded."""

  def __init__(self):
    self._events: list[events.Event] = []
    self.num_bytes = 0  # Of all steps, about.

  def trace(self) -> tuple[events.Event, ...]:
    """The steps so far."""
    return tuple(self._events)

  def record_call(
    self,
    line: int,
    tool: str,
    box: api.Box | None,
    arguments: dict[str, Any],
    value: Any,
  ) -> None:
    """Records a tool call that was answered with `value`."""
    arguments, value = clean_value(arguments), clean_value(value)
    text = f"{_call_text(tool, box, arguments)} -> {_value_text(tool, value)}"
    self._add(line, tool, box, arguments, value, text)

  def record_print(self, line: int, text: str) -> None:
    """Records what one `print` wrote; nothing if that is blank."""
    value = clean(text).strip()
    if value:
      shown = f"printed: {value}" if _FORGED.search(value) else value
      self._add(line, events.PRINT, None, {}, value, shown)

  def record_output(self, line: int, answer: str) -> None:
    """Records the program's answer, already clean."""
    text = f"Program output: {answer}"
    self._add(line, events.OUTPUT, None, {}, answer, text)

  def _add(self, line, tool, box, arguments, value, text):
    step = len(self._events)
    self.num_bytes += 2 * len(text) + 64  # A step's text repeats its values.
    self._events.append(
      events.Event(step, line, tool, box, arguments, value, text)
    )


def _visible(char):
  category = unicodedata.category(char)
  if category[0] != "C" and category not in ("Zl", "Zp"):
    return char
  return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _call_text(tool, box, arguments):
  shown = ", ".join(repr(v) for v in arguments.values())
  where = "" if box in (None, api.WHOLE) else f" on {_box_text(box)}"
  return f"{tool}({shown}){where}"


def _value_text(tool, value):
  if api.CALLS[tool].result != "boxes":
    return str(value)
  if not value:
    return "none found"
  boxes = " and ".join(_box_text(box) for box in value)
  return f"{len(value)} found: {boxes}"


def _box_text(box):
  return " ".join(map(str, box))
