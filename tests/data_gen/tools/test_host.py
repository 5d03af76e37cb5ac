"""Images, what is prepared from them, and one call's fault among others."""

import io

import numpy as np
import PIL.Image
import pytest

from data_gen.tools import host, tool, toolbox

_WHOLE = [0, 0, 999, 999]


class Depth:
  """Prepares a map of the whole image; counts what it does."""

  spec = tool.Spec("compute_depth", "1", {}, "number", uses_pixels=True)

  def __init__(self):
    self.prepared = []
    self.seen = []

  def prepare(self, image):
    self.prepared.append(image.shape)
    if image.max() == 0:
      raise ValueError("all black")
    return image.mean()

  def run_batch(self, calls):
    self.seen.append(calls)
    if any(call.box[0] == 7 for call in calls):
      raise ValueError("seven")
    return [call.prepared + call.box[0] for call in calls]


@pytest.fixture
def depth():
  return Depth()


@pytest.fixture
def made(depth):
  tools = toolbox.Toolbox({})
  tools._tools["compute_depth"] = depth
  return host.Host(tools)


def encode(value, mode="RGB", file_format="PNG"):
  data = io.BytesIO()
  image = PIL.Image.new("RGB", (5, 4), (value, value, value)).convert(mode)
  image.save(data, file_format)
  return data.getvalue()


def ask(made, items, encoded=None, forget=()):
  message = {
    "call": "compute_depth",
    "images": list(encoded or {}),
    "forget": list(forget),
    "items": [
      {"image": key, "box": [y, *_WHOLE[1:]], "arguments": {}}
      for key, y in items
    ],
  }
  return made.answer(message, encoded or {})


def test_prepare_runs_once_an_image(made, depth):
  encoded = {"a": encode(10), "b": encode(20)}
  replies = ask(made, [("a", 0), ("b", 0), ("a", 1)], encoded)
  assert replies == [{"value": 10.0}, {"value": 20.0}, {"value": 11.0}]
  assert ask(made, [("a", 2)]) == [{"value": 12.0}]
  assert depth.prepared == [(4, 5, 3)] * 2
  ask(made, [("a", 0)], {"a": encode(10)}, forget=["a"])
  assert len(depth.prepared) == 3


def test_calls_on_an_image_get_the_same_read_only_array(made, depth):
  ask(made, [("a", 0), ("a", 1)], {"a": encode(10)})
  ((first, second),) = depth.seen
  assert first.image is second.image
  assert first.image.dtype == np.uint8
  with pytest.raises(ValueError, match="read-only"):
    first.image[0] = 1


def test_a_failing_prepare_is_the_fault_of_its_image_only(made, depth):
  encoded = {"a": encode(0), "b": encode(20)}
  replies = ask(made, [("a", 0), ("b", 0), ("a", 1)], encoded)
  message = "compute_depth failed: ValueError: all black"
  fault = {"error_class": "tool_error", "message": message}
  assert replies == [fault, {"value": 20.0}, fault]
  assert len(depth.prepared) == 2
  ask(made, [("a", 0)])
  assert len(depth.prepared) == 3  # A failure is not kept.


def test_a_call_that_raises_fails_alone(made, depth):
  replies = ask(made, [("a", 7), ("a", 8)], {"a": encode(10)})
  assert replies[0]["error_class"] == "tool_error"
  assert replies[0]["message"] == "compute_depth failed: ValueError: seven"
  assert replies[1] == {"value": 18.0}
  assert [len(calls) for calls in depth.seen] == [2, 1, 1]


@pytest.mark.parametrize(
  "data",
  [b"", b"no image", encode(9)[:-30], encode(9, file_format="BMP")],
  ids=["empty", "text", "truncated", "bmp"],
)
def test_an_image_that_cannot_be_decoded(made, data):
  replies = ask(made, [("bad", 0), ("a", 0)], {"bad": data, "a": encode(10)})
  assert replies[0]["error_class"] == "bad_image"
  assert "compute_depth needs a JPEG or PNG image" in replies[0]["message"]
  assert replies[1] == {"value": 10.0}
  # The next one with its key is looked at afresh.
  assert ask(made, [("bad", 0)], {"bad": encode(30)}) == [{"value": 30.0}]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_images_become_three_channels(mode):
  pixels = host.decode(encode(255, mode))
  assert pixels.shape == (4, 5, 3)
  assert (pixels == 255).all()
