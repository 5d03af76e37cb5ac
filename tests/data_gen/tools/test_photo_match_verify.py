"""Tools that verify a property and match texts, on photographs."""

import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_gen.tools import tool, toolbox

pytest.importorskip("cv2", reason="OpenCV: extra [tools]")
pytest.importorskip("skimage", reason="scikit-image: extra [tools]")
pytest.importorskip("pytesseract", reason="pytesseract: extra [tools]")

from data_gen.tools import photo_match, photo_verify

WHOLE = (0, 0, 999, 999)
LEFT, RIGHT = (0, 0, 999, 499), (0, 500, 999, 999)


def photo(name):
  spec = importlib.util.find_spec("skimage")
  path = pathlib.Path(spec.origin).parent / "data" / name
  return np.asarray(Image.open(path).convert("RGB"))


def halves():
  """Dark red on the left, bright blue on the right."""
  image = np.zeros((100, 200, 3), np.uint8)
  image[:, :100] = (100, 10, 10)
  image[:, 100:] = (60, 90, 240)
  return image


def ask(what, image, box=WHOLE, **arguments):
  value = what.run_batch([tool.Call(image, "k", tuple(box), arguments)])[0]
  return toolbox.plain(what.spec.call, value, arguments)


@pytest.mark.parametrize(
  ("attribute", "in_left", "in_right"),
  [
    ("red", True, False),
    ("blue", False, True),
    ("green", False, False),
    ("dark", True, False),
    ("Bright", False, True),
  ],
)
def test_verify_looks_at_the_patch(attribute, in_left, in_right):
  what = photo_verify.Tool()
  for box, expected in ((LEFT, in_left), (RIGHT, in_right)):
    found = ask(what, halves(), box, object_name="wall", attribute=attribute)
    assert found is expected


def test_verify_looks_at_the_thing_that_is_found():
  what = photo_verify.Tool()
  cat, astronaut = photo("chelsea.png"), photo("astronaut.png")
  names = {"object_name": "cat"}
  assert ask(what, cat, **names, attribute="blue") is False
  what = photo_verify.Tool()
  assert ask(what, astronaut, **names, attribute="black") is False  # No cat.


def test_verify_of_what_it_cannot_see_is_an_error():
  with pytest.raises(ValueError, match=r"cannot verify 'wooden'.*bright.*red"):
    ask(photo_verify.Tool(), halves(), object_name="wall", attribute="wooden")


def test_match_of_colors_follows_their_share():
  what = photo_match.Tool()
  red, blue, green = ask(what, halves(), texts=["red", "a blue wall", "green"])
  assert red == pytest.approx(0.5, abs=0.02)
  assert blue == pytest.approx(0.5, abs=0.02)
  assert green == 0
  assert ask(what, halves(), RIGHT, texts=["red", "blue"]) == [0, 1]


def test_match_of_things_tells_photographs_apart():
  texts = ["a face", "a cat"]
  face, cat = ask(photo_match.Tool(), photo("astronaut.png"), texts=texts)
  assert face > 0.5 and cat == 0
  face, cat = ask(photo_match.Tool(), photo("chelsea.png"), texts=texts)
  assert cat > 0.5 and face == 0


def test_match_of_what_there_is_no_detector_for_is_an_error():
  with pytest.raises(ValueError, match=r"cannot match 'a dragon'.*red.*cat"):
    ask(photo_match.Tool(), halves(), texts=["red", "a dragon"])
