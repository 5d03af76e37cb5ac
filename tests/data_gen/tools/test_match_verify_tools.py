"""Tools that verify a property and match texts, on pictures of plain truth."""

import numpy as np
import pytest

from data_gen.tools import (
  api,
  stub,
  tool,
  toolbox,
  world_match,
  world_verify,
)

WHOLE = (0, 0, 999, 999)
GRAY = 128
RED, BLUE = (210, 40, 40), (40, 70, 205)


def picture(*squares, side=48):
  """Squares (color, y1, x1, y2, x2) on gray."""
  image = np.full((side, side, 3), GRAY, np.uint8)
  for color, y1, x1, y2, x2 in squares:
    image[y1:y2, x1:x2] = color
  return image


# The blue one is nearer to the middle.
TWO = picture((RED, 1, 3, 11, 13), (BLUE, 17, 30, 27, 40))
RED_BOX = (21, 62, 229, 271)


def ask(what, image, box=WHOLE, **arguments):
  value = what.run_batch([tool.Call(image, "k", tuple(box), arguments)])[0]
  return toolbox.plain(what.spec.call, value, arguments)


def verify(what, image, object_name, attribute, box=WHOLE):
  return ask(what, image, box, object_name=object_name, attribute=attribute)


@pytest.mark.parametrize(
  ("name", "attribute", "box", "expected"),
  [
    ("square", "blue", WHOLE, True),  # The one nearest to the middle.
    ("square", "red", WHOLE, False),
    ("square", "red", RED_BOX, True),
    ("square", "Red", RED_BOX, True),
    ("red thing", "square", WHOLE, True),
    ("red thing", "circle", WHOLE, False),
    ("object", "red square", RED_BOX, True),
    ("object", "red circle", RED_BOX, False),
    ("circle", "red", WHOLE, False),  # No circle there.
    ("dog", "red", WHOLE, False),
  ],
)
def test_world_verify(name, attribute, box, expected):
  assert verify(world_verify.Tool(), TWO, name, attribute, box) is expected


@pytest.mark.parametrize("attribute", ["shiny", "thing", "red dog"])
def test_world_verify_of_what_it_cannot_see(attribute):
  with pytest.raises(ValueError, match="cannot verify"):
    verify(world_verify.Tool(), TWO, "square", attribute)


@pytest.mark.parametrize(
  ("text", "box", "score"),
  [
    ("blue", WHOLE, 1.0),
    ("red", WHOLE, 0.9),
    ("a blue square", WHOLE, 1.0),
    ("the picture of a blue square", WHOLE, 1.0),
    ("blue circle", WHOLE, 0.5),
    ("red square", WHOLE, 0.9),
    ("red square", RED_BOX, 1.0),
    ("blue", RED_BOX, 0.0),
    ("object", WHOLE, 1.0),
    ("green", WHOLE, 0.0),
    ("a dog", WHOLE, 0.0),
  ],
)
def test_world_match(text, box, score):
  found = ask(world_match.Tool(), TWO, box, texts=["zebra", text])
  assert found == pytest.approx([0.0, score])


def test_world_match_of_nothing_is_zero():
  assert ask(world_match.Tool(), picture(), texts=["red", "thing"]) == [0, 0]


def test_a_stub_answers_every_call_of_both_apis():
  tools = toolbox.Toolbox({c: {"name": "stub", "call": c} for c in api.CALLS})
  call_tool = tools.bind(None, "")
  value = {str: "red car", bool: True, list: ["red", "blue"]}
  for call, shape in api.CALLS.items():
    arguments = {n: value[kind] for n, kind in shape.arguments.items()}
    call_tool(call, WHOLE, arguments)


def test_stub_answers_follow_the_arguments_and_the_box():
  match, check = stub.Tool("match_scores"), stub.Tool("verify_property")
  short, long = ask(match, None, texts=["red", "yellow"])
  assert short > long
  ((further,),) = [ask(match, None, (0, 500, 999, 999), texts=["red"])]
  assert further < short
  assert verify(check, None, "cup", "blue") is True
  assert verify(check, None, "cup", "not blue") is False
