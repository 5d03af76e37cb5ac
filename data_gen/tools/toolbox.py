"""The host's side of tool calls: from the config to checked answers.

    toolbox = Toolbox({"find": {"name": "world_find"}})
    call_tool = toolbox.bind(image, image_key)
    call_tool("find", (0, 0, 999, 999), {"object_name": "car"})

A fault of a tool is told apart from arguments that a program got wrong.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_gen.tools import api
from data_gen.tools import tool as tool_lib
from vpd_jax import lookup

MAX_ARGUMENT_CHARS = 1000
MAX_TEXT_CHARS = 20_000
MAX_BOXES = 1000

CallTool = Callable[[str, api.Box | None, Mapping[str, Any]], Any]


class ToolFault(RuntimeError):
  """A tool that fails, is missing, or returns what it did not declare."""


class Toolbox:
  """The tools of a config section, constructed once.

  Args:
    tools_config: call of the program API -> the tool's module name as "name"
      and its keyword arguments. Calls that are left out have no tool: a
      program that uses one ends with "tool_error".

  Raises:
    ValueError: if a call is not one of the API, or a tool's `Spec` does not
      fit the call that it is configured for.
    KeyError: if there is no such tool; names the nearest.
  """

  def __init__(self, tools_config: Mapping[str, Mapping[str, Any]]):
    self._tools = {
      call: _make(call, section) for call, section in tools_config.items()
    }

  @property
  def versions(self) -> dict[str, str]:
    """Call -> version of the tool that answers it, for manifests."""
    return {call: tool.spec.version for call, tool in self._tools.items()}

  def bind(self, image: np.ndarray | None, image_key: str) -> CallTool:
    """A function that answers calls on one image; equal calls run once.

    Args:
      image: uint8[height, width, 3]; None if the question has no image.
      image_key: content hash of the image.

    Returns:
      `call_tool(call, box, arguments) -> value`; a box of None is the whole
      image. It raises `api.ToolRefused` for arguments that the call does not
      take, and ToolFault for a fault of the tool.
    """
    if image is not None:
      if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
          "expected an image uint8[height, width, 3], got "
          f"{image.dtype}{list(image.shape)}"
        )
      image = image.view()
      image.flags.writeable = False
    answers: dict[Any, Any] = {}

    def call_tool(call, box, arguments):
      box = box or api.WHOLE
      key = (call, box, tuple(sorted(arguments.items())))
      if key not in answers:
        answers[key] = self._run(call, image, image_key, box, arguments)
      return answers[key]

    return call_tool

  def _run(self, call, image, image_key, box, arguments):
    if call not in self._tools:
      raise ToolFault(
        f"no tool is configured for {call}; config.tools has "
        f"{sorted(self._tools)}"
      )
    tool = self._tools[call]
    _check_arguments(call, arguments)
    if image is None and tool.spec.uses_pixels:
      raise ToolFault(f"{call} looks at pixels, and there is no image")
    seen = image if tool.spec.uses_pixels else None
    request = tool_lib.Call(seen, image_key, box, arguments)
    try:
      values = tool.run_batch([request])
    except Exception as e:
      raise ToolFault(f"{call} failed: {type(e).__name__}: {e}") from e
    if not isinstance(values, list) or len(values) != 1:
      raise ToolFault(f"{call} must return a list of one value, got {values!r}")
    return _plain(call, values[0])


def _make(call, section):
  if call not in api.CALLS:
    raise ValueError(
      f"config.tools.{call}: the program API has no such call; it has "
      f"{sorted(api.CALLS)}"
    )
  section = dict(section)
  if "name" not in section:
    raise ValueError(f"config.tools.{call} has no key 'name', the tool's file")
  name = section.pop("name")
  module = lookup.module("data_gen.tools", name)
  if not hasattr(module, "Tool"):
    raise ValueError(f"config.tools.{call}.name={name!r} has no class Tool")
  tool = module.Tool(**section)
  shape = api.CALLS[call]
  declared = (
    tool.spec.call,
    dict(tool.spec.arguments),
    tool.spec.result,
  )
  expected = (call, dict(shape.arguments), shape.result)
  if declared != expected:
    raise ValueError(
      f"config.tools.{call}.name={name!r}: the tool declares (call, arguments, "
      f"result) {declared}, the call needs {expected}"
    )
  return tool


def _check_arguments(call, arguments):
  kinds = api.CALLS[call].arguments
  if set(arguments) != set(kinds):
    raise api.ToolRefused(
      f"{call} takes {sorted(kinds)}, got {sorted(arguments)}"
    )
  for name, kind in kinds.items():
    value = arguments[name]
    if type(value) is not kind:
      raise api.ToolRefused(
        f"{call}: {name} must be {kind.__name__}, not {type(value).__name__}"
      )
    if kind is str and not value.strip():
      raise api.ToolRefused(f"{call}: {name} is empty")
    if kind is str and len(value) > MAX_ARGUMENT_CHARS:
      raise api.ToolRefused(
        f"{call}: {name} has {len(value)} characters; at most "
        f"{MAX_ARGUMENT_CHARS} are taken"
      )


def _plain(call, value):
  """The value as exact plain data, checked against the call's result type."""
  kind = api.CALLS[call].result
  if kind == "text" and isinstance(value, str):
    if len(value) <= MAX_TEXT_CHARS:
      return str(value)
  if kind == "bool" and isinstance(value, bool | np.bool_):
    return bool(value)
  if kind == "number" and isinstance(value, int | float | np.number):
    if not isinstance(value, bool) and math.isfinite(value):
      return float(value)
  if kind == "boxes" and isinstance(value, list | tuple):
    if len(value) <= MAX_BOXES and all(_is_box(box) for box in value):
      return [[int(v) for v in box] for box in value]
  raise ToolFault(f"{call} must return {kind}, got {str(value)[:200]!r}")


def _is_box(box):
  if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
    return False
  if not all(isinstance(v, int | np.integer) for v in box):
    return False
  y1, x1, y2, x2 = box
  return 0 <= y1 < y2 <= 999 and 0 <= x1 < x2 <= 999
