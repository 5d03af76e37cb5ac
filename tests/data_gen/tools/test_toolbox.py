"""From the config to checked answers, with a tool's faults told apart."""

import numpy as np
import pytest

from data_gen.tools import api, stub, toolbox

_WHOLE = (0, 0, 999, 999)


class FakeTool:
  """Gives a set answer, and counts its calls."""

  def __init__(self, call, answer):
    self.spec = stub.Tool(call=call).spec
    self.answer = answer
    self.calls = []

  def run_batch(self, calls):
    self.calls.extend(calls)
    if isinstance(self.answer, Exception):
      raise self.answer
    return [self.answer]


def box_of(tools):
  made = toolbox.Toolbox({})
  made._tools.update(tools)
  return made


def test_stub_tools_answer_every_call():
  section = {call: {"name": "stub", "call": call} for call in api.CALLS}
  made = toolbox.Toolbox(section)
  call_tool = made.bind(None, "")
  assert len(call_tool("find", _WHOLE, {"object_name": "car"})) == 2
  assert call_tool("find", _WHOLE, {"object_name": "no car"}) == []
  assert call_tool("compute_depth", _WHOLE, {}) == pytest.approx(0.001)
  question = {"question": "Is it red?"}
  assert call_tool("visual_question_answering", _WHOLE, question) == "yes"
  assert made.versions == dict.fromkeys(api.CALLS, "1")


def test_equal_calls_on_an_image_run_once():
  tool = FakeTool("find", [[1, 2, 3, 4]])
  call_tool = box_of({"find": tool}).bind(None, "")
  for _ in range(3):
    call_tool("find", _WHOLE, {"object_name": "car"})
  call_tool("find", None, {"object_name": "car"})  # The whole image too.
  assert len(tool.calls) == 1
  call_tool("find", (0, 0, 9, 9), {"object_name": "car"})
  call_tool("find", _WHOLE, {"object_name": "dog"})
  assert len(tool.calls) == 3


def test_another_image_asks_again():
  tool = FakeTool("ocr", "x")
  made = box_of({"ocr": tool})
  for key in ("a", "b"):
    made.bind(None, key)("ocr", _WHOLE, {})
  assert [call.image_key for call in tool.calls] == ["a", "b"]


def test_a_failure_is_not_kept():
  tool = FakeTool("ocr", OSError("gone"))
  call_tool = box_of({"ocr": tool}).bind(None, "")
  with pytest.raises(toolbox.ToolFault, match="ocr failed: OSError: gone"):
    call_tool("ocr", _WHOLE, {})
  tool.answer = "STOP"
  assert call_tool("ocr", _WHOLE, {}) == "STOP"


def test_tools_cannot_write_on_the_image():
  class Writes(FakeTool):
    def run_batch(self, calls):
      calls[0].image[0] = 1

  tool = Writes("ocr", "x")
  tool.spec = tool.spec.__class__("ocr", "1", {}, "text", uses_pixels=True)
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(toolbox.ToolFault, match="read-only"):
    box_of({"ocr": tool}).bind(image, "k")("ocr", _WHOLE, {})
  image[0] = 1  # The caller's own view stays as it was.


@pytest.mark.parametrize(
  ("call", "value", "plain"),
  [
    ("ocr", np.str_("a"), "a"),
    ("compute_depth", np.float32(0.5), 0.5),
    ("compute_depth", 2, 2.0),
    ("find", [(1, 2, 3, 4)], [[1, 2, 3, 4]]),
    ("find", np.array([[1, 2, 3, 4]]).tolist(), [[1, 2, 3, 4]]),
    ("find", [np.array([1, 2, 3, 4])], [[1, 2, 3, 4]]),
  ],
)
def test_values_leave_as_exact_plain_data(call, value, plain):
  tool = FakeTool(call, value)
  arguments = {"object_name": "x"} if call == "find" else {}
  result = box_of({call: tool}).bind(None, "")(call, _WHOLE, arguments)
  assert result == plain
  assert type(result) is type(plain)
  if call == "find":
    assert {type(v) for v in result[0]} == {int}


@pytest.mark.parametrize(
  ("call", "value"),
  [
    ("ocr", None),
    ("ocr", 3),
    ("ocr", "x" * 20_001),
    ("compute_depth", "near"),
    ("compute_depth", float("nan")),
    ("compute_depth", True),
    ("find", None),
    ("find", [[1, 2, 3]]),
    ("find", [[1.5, 2, 3, 4]]),
    ("find", [[3, 2, 1, 4]]),
    ("find", [[0, 0, 1000, 1000]]),
    ("find", [[0, 0, 1, 1]] * 1001),
  ],
)
def test_values_that_the_tool_did_not_declare(call, value):
  tool = FakeTool(call, value)
  arguments = {"object_name": "x"} if call == "find" else {}
  with pytest.raises(toolbox.ToolFault, match=f"{call} must return"):
    box_of({call: tool}).bind(None, "")(call, _WHOLE, arguments)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "find takes .'object_name'., got"),
    ({"object_name": "a", "size": 3}, "got .'object_name', 'size'."),
    ({"object_name": 3}, "object_name must be str, not int"),
    ({"object_name": " "}, "object_name is empty"),
    ({"object_name": "x" * 1001}, "has 1001 characters; at most 1000"),
  ],
)
def test_refused_arguments(arguments, message):
  call_tool = box_of({"find": FakeTool("find", [])}).bind(None, "")
  with pytest.raises(api.ToolRefused, match=message):
    call_tool("find", _WHOLE, arguments)


def test_a_call_without_a_tool():
  call_tool = box_of({"find": FakeTool("find", [])}).bind(None, "")
  with pytest.raises(toolbox.ToolFault, match="no tool is configured for ocr"):
    call_tool("ocr", _WHOLE, {})


@pytest.mark.parametrize(
  ("section", "error", "message"),
  [
    ({"fnd": {"name": "stub"}}, ValueError, "has no such call; it has .*find"),
    ({"find": {}}, ValueError, "config.tools.find has no key 'name'"),
    ({"find": {"name": "stubb"}}, KeyError, "Did you mean 'stub'"),
    ({"find": {"name": "api"}}, ValueError, "has no class Tool"),
    (
      {"find": {"name": "stub", "call": "ocr"}},
      ValueError,
      "declares .*'ocr'.*needs .*'find'",
    ),
  ],
)
def test_configs_that_do_not_fit(section, error, message):
  with pytest.raises(error, match=message):
    toolbox.Toolbox(section)


@pytest.mark.parametrize(
  "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_images_of_another_kind(image):
  with pytest.raises(ValueError, match="expected an image uint8"):
    toolbox.Toolbox({}).bind(image, "")
