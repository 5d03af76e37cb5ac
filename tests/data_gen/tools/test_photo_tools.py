"""Tools for photographs, on the ones that scikit-image carries."""

import importlib.util
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from data_gen.tools import tool

cv2 = pytest.importorskip("cv2", reason="OpenCV: extra [tools]")
pytest.importorskip("skimage", reason="scikit-image: extra [tools]")
pytest.importorskip("pytesseract", reason="pytesseract: extra [tools]")

from data_gen.tools import (  # noqa: E402
  _photo_colors,
  photo_caption,
  photo_depth,
  photo_find,
  photo_knowledge,
  photo_ocr,
  photo_vqa,
)

FOLDER = (
  pathlib.Path(importlib.util.find_spec("skimage").origin).parent / "data"
)
WHOLE = (0, 0, 999, 999)
needs_tesseract = pytest.mark.skipif(
  shutil.which("tesseract") is None,
  reason="the system package tesseract-ocr is not installed",
)


def photo(name):
  return np.asarray(Image.open(FOLDER / name).convert("RGB"))


def ask(what, image, box=WHOLE, key="k", **arguments):
  prepared = what.prepare(image) if hasattr(what, "prepare") else None
  call = tool.Call(image, key, tuple(box), arguments, prepared)
  return what.run_batch([call])[0]


@pytest.mark.parametrize(
  "name, noun, count",
  [
    ("astronaut.png", "face", 1),
    ("astronaut.png", "people", 1),
    ("astronaut.png", "cat", 0),
    ("chelsea.png", "cat", 1),
    ("chelsea.png", "face", 0),
    ("coins.png", "coins", 24),
  ],
)
def test_find_counts(name, noun, count):
  assert len(ask(photo_find.Tool(), photo(name), object_name=noun)) == count


def test_the_face_is_where_the_face_is():
  ((y1, x1, y2, x2),) = ask(
    photo_find.Tool(), photo("astronaut.png"), object_name="face"
  )
  # Eyes and mouth, by eye: rows 90..155, columns 185..260 of 512.
  assert y1 < 176 and y2 > 302 and x1 < 361 and x2 > 507


def test_find_counts_only_in_the_patch():
  coins = photo("coins.png")
  find = photo_find.Tool()
  halves = [(0, 0, 999, 499), (0, 500, 999, 999)]
  assert [
    len(ask(find, coins, half, object_name="coin")) for half in halves
  ] == [12, 12]


def test_find_an_area_by_color():
  image = np.full((100, 200, 3), 128, np.uint8)
  image[20:60, 50:150] = (220, 30, 30)
  find = photo_find.Tool()
  assert ask(find, image, object_name="red object") == [[200, 250, 599, 749]]
  assert ask(find, image, object_name="blue object") == []


def test_no_detector_is_an_error_and_not_an_empty_list():
  with pytest.raises(ValueError, match=r"no detector for 'dragon'.*coin"):
    ask(photo_find.Tool(), photo("coins.png"), object_name="dragon")


@pytest.mark.parametrize(
  "rgb, name",
  [
    ((250, 250, 250), "white"),
    ((10, 10, 10), "black"),
    ((128, 128, 128), "gray"),
    ((220, 20, 20), "red"),
    ((240, 130, 20), "orange"),
    ((240, 220, 30), "yellow"),
    ((30, 160, 50), "green"),
    ((30, 60, 200), "blue"),
    ((110, 40, 160), "purple"),
    ((240, 130, 180), "pink"),
    ((110, 70, 30), "brown"),
  ],
)
def test_color_names(rgb, name):
  patch = np.full((4, 4, 3), rgb, np.uint8)
  assert _photo_colors.main_name(patch) == name
  assert _photo_colors.mask_of(patch, name).all()


@pytest.mark.parametrize(
  "name, question, answer",
  [
    ("rocket.jpg", "What color is the sky?", "blue"),
    ("rocket.jpg", "Is it day or night?", "night"),
    ("astronaut.png", "Is the picture in color?", "yes"),
    ("coins.png", "Is the picture in color?", "no"),
    ("camera.png", "Is the picture black and white?", "yes"),
    ("coins.png", "How many coins are there?", "24"),
    ("astronaut.png", "Is there a face?", "yes"),
    ("chelsea.png", "What animal is this?", "cat"),
  ],
)
def test_vqa(name, question, answer):
  assert ask(photo_vqa.Tool(), photo(name), question=question) == answer


def test_vqa_refuses_what_it_cannot_see():
  with pytest.raises(ValueError, match="cannot answer 'who is she"):
    ask(photo_vqa.Tool(), photo("astronaut.png"), question="Who is she?")


@needs_tesseract
def test_ocr_reads_the_heading_in_its_line():
  page = photo("page.png")
  lines = ask(photo_find.Tool(), page, object_name="line of text")
  assert ask(photo_ocr.Tool(), page, lines[0]) == "Region-based segmentation"


def test_ocr_without_tesseract_says_what_to_install(monkeypatch):
  monkeypatch.setenv("PATH", "")
  with pytest.raises(RuntimeError, match="tesseract-ocr"):
    ask(photo_ocr.Tool(), photo("page.png"))


def test_matched_disparity_agrees_with_the_measured_one():
  found = photo_depth.disparity_px(
    photo("motorcycle_left.png"), photo("motorcycle_right.png")
  )
  with np.load(FOLDER / "motorcycle_disp.npz") as archive:
    truth = archive["arr_0"]
  is_known = np.isfinite(truth) & (found > 0)
  assert is_known.mean() > 0.6
  off = np.abs(found - truth)[is_known]
  assert np.median(off) < 1
  assert (off < 2).mean() > 0.85


def test_depth_of_the_stereo_pair_grows_with_distance():
  image = photo("motorcycle_left.png")
  depth = photo_depth.Tool()
  wheel, shelf = (500, 700, 850, 900), (100, 700, 180, 900)
  assert ask(depth, image, wheel) < ask(depth, image, shelf)


def test_one_picture_alone_has_no_depth():
  with pytest.raises(ValueError, match=r"has no second view.*motorcycle_left"):
    ask(photo_depth.Tool(), photo("coffee.png"))


def test_missing_second_view_is_named(tmp_path):
  depth = photo_depth.Tool(pairs=[("l.png", "r.png")], image_dir=str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r"l\.png"):
    ask(depth, photo("coffee.png"))


def test_caption_names_what_was_found():
  caption = ask(photo_caption.Tool(), photo("coins.png"))
  assert caption == "a mostly gray picture with 24 coins"


def test_knowledge():
  assert photo_knowledge.Tool().answer("What sound does a cat make?") == "meow"
  with pytest.raises(ValueError, match="does not know"):
    photo_knowledge.Tool().answer("Who won?")
