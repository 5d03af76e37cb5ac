import pytest

from vpd_jax.evaluators import scoring


@pytest.mark.parametrize(
  "answer, expected",
  [
    ("The  Cats.", "cats"),
    ("two", "2"),
    ("TWENTY", "20"),
    ("none", "0"),
    ("1,000", "1000"),
    ("3.5", "3.5"),
    (".5 m", "5 m"),
    ("-3", "-3"),
    ("t-shirt", "t shirt"),
    ("2-3", "2 3"),
    ("don't", "dont"),
    ("red, and blue!", "red and blue"),
    ("a", "a"),
    ("an apple", "apple"),
    ("", ""),
    ("?!", ""),
    ("naïve café", "naïve café"),
  ],
)
def test_normalize(answer, expected):
  assert scoring.normalize(answer) == expected


@pytest.mark.parametrize(
  "text", ["The  Cats.", "don't", "1,000 x_y", "A", "-3"]
)
def test_normalizing_twice_changes_nothing(text):
  once = scoring.normalize(text)
  assert scoring.normalize(once) == once


def test_exact_match_is_with_any_answer():
  assert scoring.exact_match("Two.", ["3", "2"])
  assert scoring.exact_match("yes", ["Yes"])
  assert not scoring.exact_match("yes", ["no"])
  assert not scoring.exact_match("2", [])


def test_an_empty_prediction_matches_nothing():
  assert not scoring.exact_match("", [""])
  assert not scoring.exact_match(" . ", ["?"])


@pytest.mark.parametrize(
  "text, expected",
  [
    ("21 62 229 271", [(21, 62, 229, 271)]),
    (
      "21 62 229 271 ; 354 62 562 271 , 687 62 895 271 ; 2",
      [(21, 62, 229, 271), (354, 62, 562, 271), (687, 62, 895, 271)],
    ),
    ("The circle is at 0 0 999 999.", [(0, 0, 999, 999)]),
    ("(1 2 3 4)", [(1, 2, 3, 4)]),
    ("1 2 3 4 5", []),
    ("1 2 3", []),
    ("1 2 3 1000", []),
    ("1 2 3 4.5", []),
    ("1, 2, 3, 4", []),
    ("1 2 3 4\n5 6 7 8", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    ("-1 2 3 4", []),
    ("x1 2 3 4", []),
    ("", []),
  ],
)
def test_boxes_in(text, expected):
  assert scoring.boxes_in(text) == expected


@pytest.mark.parametrize(
  "a, b, expected",
  [
    ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
    ((0, 0, 10, 10), (0, 5, 10, 15), 50 / 150),
    ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
    ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
    ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
    ((10, 10, 0, 0), (0, 0, 10, 10), 0.0),
  ],
)
def test_box_iou(a, b, expected):
  assert scoring.box_iou(a, b) == pytest.approx(expected)
  assert scoring.box_iou(b, a) == pytest.approx(expected)
