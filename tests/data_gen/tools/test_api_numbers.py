"""Numbers in texts, in digits and in words."""

import time

import pytest

from data_gen.tools import api_numbers


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("25to26", 25),
    ("25-26", 25),
    ("10 - 15", 10),
    ("-3", -3),
    ("(-3.5)", -3.5),
    ("from -3 to 4", -3),
    ("a-3", 3),
    ("$5.99", 5.99),
    (".5", 0.5),
    ("5.", 5),
    ("1,200 people", 1200),
    ("1,20", 1),
    ("12,345,678.5", 12345678.5),
    ("1.5 million", 1500000.0),
    ("3 thousand", 3000),
    ("2 cars", 2),
    ("about 40%", 40),
    ("3rd", 3),
    ("1990s", 1990),
    ("B52", 52),
    ("007", 7),
    ("zero", 0),
    ("Twenty-five", 25),
    ("twenty five dogs", 25),
    ("twenty twenty", 20),
    ("twenty ten", 20),
    ("five six", 5),
    ("one and two", 1),
    ("a hundred", 100),
    ("three hundred and five", 305),
    ("two hundred thousand", 200000),
    ("one thousand two hundred thirty-four", 1234),
    ("five million and one", 5000001),
    ("two of 12", 2),
    ("12 of two", 12),
    ("March 5, 2014", 2014),
    ("12 march 2014", 2014),
    ("May 1999", 1999),
    ("may be 7", 7),
    ("someone", None),
    ("and", None),
    ("no number", None),
    ("", None),
    ("-", None),
    ("\u0663", None),  # Another script's digit.
  ],
)
def test_first_number(text, number):
  found = api_numbers.first_number(text)
  assert found == number
  assert type(found) is type(number)


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("7", 7),
    ("twenty-one", 21),
    ("two hundred", 200),
    ("two dogs", None),
    ("7 dogs", None),
    ("7up", None),
    ("plate", None),
    ("-7", None),
    ("one two", None),
    ("", None),
  ],
)
def test_whole_number(text, number):
  assert api_numbers.whole_number(text) == number


def test_long_texts_are_read_fast():
  """No pattern may backtrack: texts come from tools. One second is ample."""
  start_s = time.process_time()
  for piece in ("1,", "1.", "one ", "- ", "hundred and ", "march "):
    api_numbers.first_number(piece * 5000)
    api_numbers.whole_number(piece * 5000)
  assert time.process_time() - start_s < 1
