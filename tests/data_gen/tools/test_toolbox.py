"""From the config to checked answers, with a tool's faults told apart."""

import dataclasses
import sys

import numpy as np
import pytest

from data_gen.tools import api, stub, tool, toolbox

_WHOLE = (0, 0, 999, 999)
ARGUMENTS = {
  "find": {"object_name": "x"},
  "match_scores": {"texts": ["x", "y"]},
  "verify_property": {"object_name": "x", "attribute": "y"},
}


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
  fake = FakeTool("find", [[1, 2, 3, 4]])
  call_tool = box_of({"find": fake}).bind(None, "")
  for _ in range(3):
    call_tool("find", _WHOLE, {"object_name": "car"})
  call_tool("find", None, {"object_name": "car"})  # The whole image too.
  assert len(fake.calls) == 1
  call_tool("find", (0, 0, 9, 9), {"object_name": "car"})
  call_tool("find", _WHOLE, {"object_name": "dog"})
  assert len(fake.calls) == 3


def test_another_image_asks_again():
  fake = FakeTool("ocr", "x")
  fake.spec = dataclasses.replace(fake.spec, uses_pixels=True)
  made = box_of({"ocr": fake})
  for key in ("a", "b"):
    made.bind(np.zeros((4, 4, 3), np.uint8), key)("ocr", _WHOLE, {})
  assert [call.image_key for call in fake.calls] == ["a", "b"]


def test_a_tool_that_uses_no_pixels_knows_nothing_of_the_image():
  fake = FakeTool("ocr", "x")
  image = np.zeros((4, 4, 3), np.uint8)
  box_of({"ocr": fake}).bind(image, "a")("ocr", _WHOLE, {})
  assert (fake.calls[0].image, fake.calls[0].image_key) == (None, "")


def test_what_is_prepared_comes_with_each_call():
  class Prepares(FakeTool):
    def prepare(self, image):
      prepared.append(image)
      return "map"

  prepared = []
  fake = Prepares("ocr", "x")
  fake.spec = dataclasses.replace(fake.spec, uses_pixels=True)
  call_tool = box_of({"ocr": fake}).bind(np.zeros((4, 4, 3), np.uint8), "a")
  call_tool("ocr", _WHOLE, {})
  call_tool("ocr", (0, 0, 9, 9), {})
  assert [call.prepared for call in fake.calls] == ["map", "map"]
  assert len(prepared) == 1


def test_a_batch_that_fails_is_run_call_by_call():
  class Picky(FakeTool):
    def run_batch(self, calls):
      sizes.append(len(calls))
      texts = [call.arguments["question"] for call in calls]
      if "bad" in texts:
        raise ValueError("bad")
      return texts if "short" not in texts else []

  sizes = []
  made = box_of({"visual_question_answering": Picky("ocr", "")})
  calls = [
    tool.Call(None, "", _WHOLE, {"question": text})
    for text in ("a", "bad", "short", "b")
  ]
  values = made.run_batch("visual_question_answering", calls)
  assert (values[0], values[3]) == ("a", "b")
  assert "failed: ValueError: bad" in str(values[1])
  assert "must return a list of 1 values, got '[]'" in str(values[2])
  assert sizes == [4, 1, 1, 1, 1]


def test_a_failure_is_not_kept():
  fake = FakeTool("ocr", OSError("gone"))
  call_tool = box_of({"ocr": fake}).bind(None, "")
  with pytest.raises(toolbox.ToolFault, match="ocr failed: OSError: gone"):
    call_tool("ocr", _WHOLE, {})
  fake.answer = "STOP"
  assert call_tool("ocr", _WHOLE, {}) == "STOP"


def test_tools_cannot_write_on_the_image():
  class Writes(FakeTool):
    def run_batch(self, calls):
      calls[0].image[0] = 1

  fake = Writes("ocr", "x")
  fake.spec = fake.spec.__class__("ocr", "1", {}, "text", uses_pixels=True)
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(toolbox.ToolFault, match="read-only"):
    box_of({"ocr": fake}).bind(image, "k")("ocr", _WHOLE, {})
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
    ("match_scores", np.array([0.5, 1], np.float32), [0.5, 1.0]),
    ("match_scores", (1, 2), [1.0, 2.0]),
    ("verify_property", np.True_, True),
  ],
)
def test_values_leave_as_exact_plain_data(call, value, plain):
  fake = FakeTool(call, value)
  arguments = ARGUMENTS.get(call, {})
  result = box_of({call: fake}).bind(None, "")(call, _WHOLE, arguments)
  assert result == plain
  assert type(result) is type(plain)
  if call == "find":
    assert {type(v) for v in result[0]} == {int}
  if call == "match_scores":
    assert {type(v) for v in result} == {float}


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
    ("compute_depth", 10**400),
    ("compute_depth", 1 + 2j),
    ("match_scores", [0.5]),
    ("match_scores", [0.5, float("inf")]),
    ("match_scores", [0.5, None]),
    ("verify_property", 1),
  ],
)
def test_values_that_the_tool_did_not_declare(call, value):
  fake = FakeTool(call, value)
  arguments = ARGUMENTS.get(call, {})
  with pytest.raises(toolbox.ToolFault, match=f"{call} must return"):
    box_of({call: fake}).bind(None, "")(call, _WHOLE, arguments)


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


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    (("a",), "texts must be list, not tuple"),
    ([], "texts has 0 items; from 1 to 100 are taken"),
    (["a"] * 101, "texts has 101 items"),
    (["a", 3], r"texts\[1\] must be str, not int"),
    ([" "], r"texts\[0\] is empty"),
    (["x" * 1001], r"texts\[0\] has 1001 characters; at most 1000"),
  ],
)
def test_refused_lists(texts, message):
  with pytest.raises(api.ToolRefused, match=message):
    toolbox.check_arguments("match_scores", {"texts": texts})


def test_a_list_that_is_taken():
  toolbox.check_arguments("match_scores", {"texts": ["a"] * 100})


def test_a_call_without_a_tool():
  call_tool = box_of({"find": FakeTool("find", [])}).bind(None, "")
  with pytest.raises(toolbox.ToolFault, match="no tool is configured for ocr"):
    call_tool("ocr", _WHOLE, {})


@pytest.fixture
def my_ocr(tmp_path, monkeypatch):
  """Tools of a package of one's own."""
  good = (
    "import dataclasses\n"
    "from data_gen.tools import stub\n"
    "class Tool(stub.Tool):\n"
    "  def __init__(self, **changes):\n"
    "    super().__init__(call='ocr')\n"
    "    self.spec = dataclasses.replace(self.spec, **changes)\n"
  )
  folder = tmp_path / "my_ocr"
  folder.mkdir()
  texts = {
    "__init__": "",
    "good": good,
    "blind": good + "  def prepare(self, image):\n    pass\n",
    "needs": "import no_such_one",
  }
  for name, text in texts.items():
    (folder / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield
  for name in texts:
    sys.modules.pop(f"my_ocr.{name}", None)
  sys.modules.pop("my_ocr", None)


@pytest.mark.usefixtures("my_ocr")
def test_a_tool_of_a_package_of_ones_own():
  section = {"name": "my_ocr.good", "version": "8", "process": "gpu0"}
  assert toolbox.Toolbox({"ocr": section}).versions == {"ocr": "8"}


@pytest.mark.parametrize(
  ("section", "error", "message"),
  [
    ({"fnd": {"name": "stub"}}, ValueError, "has no such call; it has .*find"),
    ({"find": {}}, ValueError, "config.tools.find has no key 'name'"),
    ({"find": {"name": "stubb"}}, KeyError, "Did you mean 'stub'"),
    ({"find": {"name": "api"}}, ValueError, "has no class Tool"),
    ({"find": {"name": "os.path"}}, ValueError, "'os.path' has no class Tool"),
    ({"find": {"name": "os.pth"}}, KeyError, "no module 'os.pth'.*PYTHONPATH"),
    ({"find": {"name": "nobody.has"}}, KeyError, "no module 'nobody.has'"),
    (
      {"ocr": {"name": "my_ocr.good", "batch_limit": 0}},
      ValueError,
      "batch_limit=0 .*expected 1 or more",
    ),
    ({"ocr": {"name": "my_ocr.blind"}}, ValueError, "it must use pixels"),
    ({"ocr": {"name": "my_ocr.needs"}}, ModuleNotFoundError, "no_such_one"),
    (
      {"find": {"name": "stub", "call": "ocr"}},
      ValueError,
      "declares .*'ocr'.*needs .*'find'",
    ),
  ],
)
@pytest.mark.usefixtures("my_ocr")
def test_configs_that_do_not_fit(section, error, message):
  with pytest.raises(error, match=message):
    toolbox.Toolbox(section)


@pytest.mark.parametrize(
  "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_images_of_another_kind(image):
  with pytest.raises(ValueError, match="expected an image uint8"):
    toolbox.Toolbox({}).bind(image, "")
