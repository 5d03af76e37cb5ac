"""Coordinates, answers and the prompt text of the program API."""

import ast
import inspect

import pytest

from data_gen.tools import api

# Rows y 100..300 and columns x 200..600 from the top left corner.
_BOX = (100, 200, 300, 600)


def patch_of(box=_BOX, call=None):
  image = api.Image(call or (lambda *_: None))
  return api.ImagePatch(image)._at(box)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("left", 200),
    ("right", 600),
    ("upper", 899),  # 999 - 100: counted from below.
    ("lower", 699),
    ("horizontal_center", 400),
    ("vertical_center", 799),
    ("width", 400),
    ("height", 200),
  ],
)
def test_attributes_have_a_lower_left_origin(name, value):
  assert getattr(patch_of(), name) == value


def test_text_has_a_top_left_origin():
  assert str(patch_of()) == "100 200 300 600"
  assert f"{[patch_of()]}" == "[ImagePatch(100 200 300 600)]"


def test_the_whole_image():
  patch = api.ImagePatch(api.Image(None))
  assert (patch.left, patch.lower, patch.right, patch.upper) == (0, 0, 999, 999)


def test_crop_of_a_patchs_own_borders_is_that_patch():
  whole, patch = api.ImagePatch(api.Image(None)), patch_of()
  borders = (patch.left, patch.lower, patch.right, patch.upper)
  assert whole.crop(*borders) == patch
  assert whole.crop(*map(float, borders)) == patch


@pytest.mark.parametrize(
  ("borders", "box"),
  [
    ((0, 0, 999, 999), (100, 200, 300, 600)),  # Cut at the patch.
    ((0, 0, 400, 999), (100, 200, 300, 400)),  # Left half.
    ((0, 799, 999, 999), (100, 200, 200, 600)),  # Upper half.
  ],
)
def test_crop_inside_a_crop_keeps_the_images_coordinates(borders, box):
  assert str(patch_of().crop(*borders)) == " ".join(map(str, box))


@pytest.mark.parametrize(
  ("borders", "error", "message"),
  [
    ((0, 0, 100, 999), ValueError, "has no area inside the patch"),
    ((300, 999, 400, 0), ValueError, "has no area"),
    (
      (0, 0, float("nan"), 9),
      ValueError,
      "right must be a number on the scale",
    ),
    (("0", 0, 1, 1), TypeError, "left must be a number, not str"),
  ],
)
def test_crop_that_cannot_be(borders, error, message):
  with pytest.raises(error, match=message):
    patch_of().crop(*borders)


@pytest.mark.parametrize(
  ("box", "expanded"),
  [
    ((100, 200, 300, 600), "0 0 400 800"),
    ((400, 400, 500, 500), "350 350 550 550"),
    ((900, 0, 999, 100), "851 0 999 150"),
  ],
)
def test_expanding_doubles_about_the_center(box, expanded):
  assert str(patch_of(box).expand_patch_with_surrounding()) == expanded


@pytest.mark.parametrize(
  ("other", "expected"),
  [
    (_BOX, True),
    ((299, 599, 400, 700), True),
    ((300, 200, 400, 600), False),  # Touches below.
    ((100, 600, 300, 700), False),  # Touches at the right.
    ((0, 0, 999, 999), True),
    ((150, 250, 160, 260), True),
  ],
)
def test_overlaps_is_a_shared_area_and_symmetric(other, expected):
  assert patch_of().overlaps(patch_of(other)) is expected
  assert patch_of(other).overlaps(patch_of()) is expected


def test_dist_is_between_centers():
  dist = api.Functions(None).dist
  a, b = patch_of((0, 0, 100, 100)), patch_of((30, 40, 130, 140))
  assert dist(a, b) == dist(b, a) == 50
  with pytest.raises(TypeError, match="dist takes a patch, not int"):
    dist(a, 3)


def test_patches_compare_by_box():
  assert patch_of() in [patch_of()]
  assert patch_of() != patch_of((0, 0, 1, 1))
  assert len({patch_of(), patch_of()}) == 1


def test_calls_carry_the_box_and_every_argument():
  calls = []

  def call(*arguments):
    calls.append(arguments)
    return []

  patch = patch_of(call=call)
  functions = api.Functions(call)
  patch.find("car")
  patch.visual_question_answering()
  patch.compute_depth()
  patch.image_caption()
  functions.ocr(patch)
  functions.language_question_answering("Why?")
  assert calls == [
    ("find", _BOX, {"object_name": "car"}),
    ("visual_question_answering", _BOX, {"question": "What is this?"}),
    ("compute_depth", _BOX, {}),
    ("image_caption", _BOX, {}),
    ("ocr", _BOX, {}),
    (
      "language_question_answering",
      None,
      {"question": "Why?", "long_answer": False},
    ),
  ]


def test_the_calls_of_a_language_model_are_marked():
  marked = [name for name, shape in api.CALLS.items() if shape.is_llm]
  assert marked == ["language_question_answering"]


def test_find_gives_patches_of_the_same_image():
  patch = patch_of(call=lambda *_: [[1, 2, 3, 4]]).find("car")[0]
  assert str(patch) == "1 2 3 4"
  assert patch.find("wheel")[0] == patch


@pytest.mark.parametrize("name", [3, None, ["car"], ("car",)])
def test_find_takes_text_only(name):
  with pytest.raises(api.ToolRefused, match="object_name must be str, not"):
    patch_of().find(name)


def test_image_patch_takes_the_image_only():
  with pytest.raises(TypeError, match="takes the image given"):
    api.ImagePatch("image.jpg")


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (True, "yes"),
    (0, "0"),
    (-3.0, "-3"),
    (2.5, "2.5"),
    (2 / 3, "0.6667"),
    (" a b\n", "a b"),
    ([1, "b", False], "1, b, no"),
    ((), ""),
  ],
)
def test_formatting_answer(value, text):
  assert api.Functions(None).formatting_answer(value) == text


@pytest.mark.parametrize(
  "value", [None, {}, float("nan"), float("-inf"), 1e15, 10**400, [None], len]
)
def test_values_that_are_no_answers(value):
  with pytest.raises(api.BadAnswer):
    api.Functions(None).formatting_answer(value)


def test_prompt_is_python_and_has_every_call_and_docstring():
  tree = ast.parse(api.prompt_text())
  functions = {
    node.name: node
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef)
  }
  names = {"dist", "formatting_answer", "crop", "overlaps", "__init__"}
  names |= {"expand_patch_with_surrounding", "find", "image_caption", "ocr"}
  names |= {"visual_question_answering", "language_question_answering"}
  names |= {"compute_depth"}
  assert set(functions) == names
  for name, node in functions.items():
    owner = api.ImagePatch if hasattr(api.ImagePatch, name) else api.Functions
    member = getattr(owner, name)
    expected = [p for p in inspect.signature(member).parameters if p != "self"]
    assert [a.arg for a in node.args.args if a.arg != "self"] == expected
    assert ast.get_docstring(node) == inspect.getdoc(member)


def test_prompt_shows_nothing_private():
  assert "_call" not in api.prompt_text()
  assert "data_gen" not in api.prompt_text()
