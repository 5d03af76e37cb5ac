"""Makes the tools of a config section, runs them, and checks what they return.

    toolbox = Toolbox({"find": {"name": "world_find"}})
    values = toolbox.run_batch("find", [tool.Call(...), tool.Call(...)])

`server` keeps a toolbox in a process of its own; `Toolbox.bind` is the simple
route, in this process and call by call. A fault of a tool is told apart from
arguments that a program got wrong.
"""

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_gen.tools import api
from data_gen.tools import tool as tool_lib
from vpd_jax import lookup

MAX_ARGUMENT_CHARS = 1000
MAX_ARGUMENT_ITEMS = 100
MAX_TEXT_CHARS = 20_000
MAX_BOXES = 1000
_MAX_MESSAGE_CHARS = 300

CallTool = Callable[[str, api.Box | None, Mapping[str, Any]], Any]


class ToolFault(RuntimeError):
  """A tool that fails, is missing, or returns what it did not declare."""


class Toolbox:
  """The tools of a config section, constructed once.

  Args:
    tools_config: call of the program API -> the tool's module as "name", and
      its keyword arguments. Calls that are left out have no tool: a program
      that uses one ends with an error.

  Raises:
    ValueError: if a call is not one of the API, or a tool's `Spec` does not
      fit the call that it is configured for.
    KeyError: if there is no such tool; names the nearest.
  """

  def __init__(self, tools_config: Mapping[str, Mapping[str, Any]]):
    self._tools: dict[str, Any] = {
      call: _make(call, section) for call, section in tools_config.items()
    }

  @property
  def specs(self) -> dict[str, tool_lib.Spec]:
    """Call -> declaration of the tool that answers it."""
    return {call: tool.spec for call, tool in self._tools.items()}

  @property
  def versions(self) -> dict[str, str]:
    """Call -> version of the tool that answers it, for manifests."""
    return {call: tool.spec.version for call, tool in self._tools.items()}

  def prepare(self, call: str, image: np.ndarray) -> Any:
    """What the tool computes once an image; None if it has no `prepare`.

    Raises:
      ToolFault: if that fails.
    """
    tool = self._tools[call]
    if not hasattr(tool, "prepare"):
      return None
    try:
      return tool.prepare(image)
    except Exception as e:
      raise _failure(call, e) from e

  def run_batch(
    self, call: str, calls: Sequence[tool_lib.Call]
  ) -> list[Any | ToolFault]:
    """The checked value, or the fault, of each call.

    A batch that fails as a whole is run again call by call, so that what comes
    of a call does not depend on its companions.

    Args:
      call: which tool; there is one.
      calls: one or more, with arguments that `check_arguments` let pass.
    """
    try:
      values = self._tools[call].run_batch(calls)
      if not isinstance(values, list) or len(values) != len(calls):
        raise ToolFault(
          f"{call} must return a list of {len(calls)} values, got"
          f" {_short(values)}"
        )
    except Exception as e:
      if len(calls) > 1:
        return [self.run_batch(call, [one])[0] for one in calls]
      return [e if isinstance(e, ToolFault) else _failure(call, e)]
    return [_checked(call, v, c.arguments) for v, c in zip(values, calls)]

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
    answers: dict[str, Any] = {}
    prepared: dict[str, Any] = {}

    def call_tool(call, box, arguments):
      if call not in self._tools:
        raise ToolFault(missing_text(call, self._tools))
      check_arguments(call, arguments)
      box = box or api.WHOLE
      key = json.dumps([call, box, arguments], sort_keys=True)
      if key not in answers:
        if not self._tools[call].spec.uses_pixels:
          request = tool_lib.Call(None, "", box, arguments)
        elif image is None:
          raise ToolFault(no_image_text(call))
        else:
          if call not in prepared:
            prepared[call] = self.prepare(call, image)
          request = tool_lib.Call(
            image, image_key, box, arguments, prepared[call]
          )
        (value,) = self.run_batch(call, [request])
        if isinstance(value, ToolFault):
          raise value
        answers[key] = value
      return answers[key]

    return call_tool


def tool_class(name: str) -> type:
  """The class `Tool` of the module that a config names; see `tool`.

  Raises:
    KeyError: if there is no such module.
    ValueError: if it has no class `Tool`.
  """
  if "." not in name:
    module = lookup.module("data_gen.tools", name)
  elif _exists(name):
    module = importlib.import_module(name)
  else:
    raise KeyError(
      f"there is no module {name!r}; a tool's name with a dot in it is a full"
      " module path, to be found on PYTHONPATH or installed."
    )
  if not hasattr(module, "Tool"):
    raise ValueError(f"the tool module {name!r} has no class Tool")
  return module.Tool


def check_arguments(call: str, arguments: Mapping[str, Any]) -> None:
  """Raises `api.ToolRefused` for arguments that the call does not take."""
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
    if kind is str:
      _check_text(f"{call}: {name}", value)
    if kind is list:
      if not 1 <= len(value) <= MAX_ARGUMENT_ITEMS:
        raise api.ToolRefused(
          f"{call}: {name} has {len(value)} items; from 1 to"
          f" {MAX_ARGUMENT_ITEMS} are taken"
        )
      for i, item in enumerate(value):
        _check_text(f"{call}: {name}[{i}]", item)


def plain(call: str, value: Any, arguments: Mapping[str, Any]) -> Any:
  """The value as exact plain data.

  Args:
    call: that returned it.
    value: as the tool returned it; may hold NumPy's numbers and arrays.
    arguments: of the call.

  Raises:
    ToolFault: if it is not of the call's result type.
  """
  kind = api.CALLS[call].result
  if kind == "text" and isinstance(value, str):
    if len(value) <= MAX_TEXT_CHARS:
      return str(value)
  if kind == "bool" and isinstance(value, bool | np.bool_):
    return bool(value)
  if kind == "number" and _is_number(value):
    return float(value)
  if kind == "numbers" and isinstance(value, list | tuple | np.ndarray):
    lists = [a for a in arguments.values() if isinstance(a, list)]
    expected = len(lists[0]) if lists else len(value)
    if len(value) == expected and all(map(_is_number, value)):
      return [float(v) for v in value]
    kind = f"{expected} finite numbers"
  if kind == "boxes" and isinstance(value, list | tuple):
    if len(value) <= MAX_BOXES and all(_is_box(box) for box in value):
      return [[int(v) for v in box] for box in value]
  raise ToolFault(f"{call} must return {kind}, got {_short(value)}")


def missing_text(call: str, tools: Mapping[str, Any]) -> str:
  """The message for a call that no tool answers."""
  return f"no tool is configured for {call}; config.tools has {sorted(tools)}"


def no_image_text(call: str) -> str:
  """The message for a call on the pixels of no image."""
  return f"{call} looks at pixels, and there is no image"


def _make(call, section):
  if call not in api.CALLS:
    raise ValueError(
      f"config.tools.{call}: the program API has no such call; it has "
      f"{sorted(api.CALLS)}"
    )
  section = {k: v for k, v in section.items() if k != "process"}
  if "name" not in section:
    raise ValueError(f"config.tools.{call} has no key 'name', the tool's file")
  name = section.pop("name")
  tool: Any = tool_class(name)(**section)
  shape = api.CALLS[call]
  declared = (
    tool.spec.call,
    dict(tool.spec.arguments),
    tool.spec.result,
  )
  expected = (call, dict(shape.arguments), shape.result)
  where = f"config.tools.{call}.name={name!r}: the tool"
  if declared != expected:
    raise ValueError(
      f"{where} declares (call, arguments, result) {declared}, the call needs"
      f" {expected}"
    )
  if tool.spec.batch_limit < 1 or not tool.spec.timeout_s > 0:
    raise ValueError(
      f"{where} declares batch_limit={tool.spec.batch_limit} and timeout_s="
      f"{tool.spec.timeout_s}; expected 1 or more, and more than 0"
    )
  if hasattr(tool, "prepare") and not tool.spec.uses_pixels:
    raise ValueError(f"{where} has `prepare`, so it must use pixels")
  return tool


def _exists(name):
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError as e:
    if e.name and not f"{name}.".startswith(f"{e.name}."):
      raise  # It is there, and needs a package that is not.
    return False


def _check_text(what, value):
  if type(value) is not str:
    raise api.ToolRefused(f"{what} must be str, not {type(value).__name__}")
  if not value.strip():
    raise api.ToolRefused(f"{what} is empty")
  if len(value) > MAX_ARGUMENT_CHARS:
    raise api.ToolRefused(
      f"{what} has {len(value)} characters; at most {MAX_ARGUMENT_CHARS} are"
      " taken"
    )


def _checked(call, value, arguments):
  try:
    return plain(call, value, arguments)
  except ToolFault as e:
    return e


def _failure(call, error):
  text = " ".join(f"{type(error).__name__}: {error}".split())
  return ToolFault(f"{call} failed: {text[:_MAX_MESSAGE_CHARS]}")


def _short(value):
  return repr(str(value)[:200])


def _is_number(value):
  if isinstance(value, bool):
    return False
  if isinstance(value, int):
    return abs(value) < 1e300  # Else float() overflows.
  return isinstance(value, float | np.integer | np.floating) and math.isfinite(
    value
  )


def _is_box(box):
  if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
    return False
  if not all(isinstance(v, int | np.integer) for v in box):
    return False
  y1, x1, y2, x2 = box
  return 0 <= y1 < y2 <= 999 and 0 <= x1 < x2 <= 999
