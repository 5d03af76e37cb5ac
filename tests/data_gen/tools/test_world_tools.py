"""Tools of the embedded world, on drawn pictures whose truth is plain."""

import numpy as np
import pytest

from data_gen.tools import (
  tool,
  world_caption,
  world_depth,
  world_find,
  world_knowledge,
  world_ocr,
  world_vqa,
)

WHOLE = (0, 0, 999, 999)
GRAY = 128
RED, BLUE, GREEN = (210, 40, 40), (40, 70, 205), (45, 160, 70)


def picture(*squares, side=48):
  """Squares (color, y1, x1, y2, x2) on gray, with a little noise."""
  rng = np.random.default_rng(0)
  image = np.full((side, side, 3), GRAY, np.float32)
  for color, y1, x1, y2, x2 in squares:
    image[y1:y2, x1:x2] = color
  image += rng.normal(0, 3, image.shape)
  return np.clip(image, 0, 255).astype(np.uint8)


TWO = picture((RED, 1, 3, 11, 13), (BLUE, 17, 35, 27, 45))
RED_BOX, BLUE_BOX = [21, 62, 229, 271], [354, 728, 562, 937]


def ask(what, image, box=WHOLE, **arguments):
  return what.run_batch([tool.Call(image, "k", tuple(box), arguments)])[0]


@pytest.mark.parametrize(
  "name, boxes",
  [
    ("object", [RED_BOX, BLUE_BOX]),
    ("things", [RED_BOX, BLUE_BOX]),
    ("square", [RED_BOX, BLUE_BOX]),
    ("Squares", [RED_BOX, BLUE_BOX]),
    ("red square", [RED_BOX]),
    ("the blue thing", [BLUE_BOX]),
    ("circle", []),
    ("dog", []),
  ],
)
def test_find_gives_exact_boxes_in_reading_order(name, boxes):
  assert ask(world_find.Tool(), TWO, object_name=name) == boxes


def test_find_searches_the_patch_but_answers_for_the_whole_image():
  found = ask(
    world_find.Tool(), TWO, (300, 600, 700, 999), object_name="square"
  )
  assert found == [BLUE_BOX]


def test_a_thing_belongs_to_the_patch_that_its_centre_is_in():
  half_in = (0, 160, 999, 999)  # The red square's centre is at x = 166.
  just_out = (0, 170, 999, 999)
  find = world_find.Tool()
  assert len(ask(find, TWO, half_in, object_name="square")) == 2
  assert len(ask(find, TWO, just_out, object_name="square")) == 1


def test_a_gray_picture_holds_nothing():
  assert ask(world_find.Tool(), picture(), object_name="object") == []


def test_touching_squares_of_two_colors_are_two_things():
  image = picture((RED, 10, 10, 20, 20), (BLUE, 10, 20, 20, 30))
  assert len(ask(world_find.Tool(), image, object_name="object")) == 2


def test_answers_of_one_image_do_not_leak_into_another():
  find = world_find.Tool()
  other = picture((GREEN, 20, 20, 30, 30))
  assert len(ask(find, TWO, object_name="object")) == 2
  assert len(ask(find, other, object_name="object")) == 1
  assert len(ask(find, TWO, object_name="object")) == 2


def test_unknown_vocabulary_names_the_known_ones():
  with pytest.raises(ValueError, match=r"unknown names \['mauve'\].*'red'"):
    world_find.Tool(colors=("mauve",))


@pytest.mark.parametrize(
  "question, answer",
  [
    ("What color is it?", "red"),
    ("What colour is this?", "red"),
    ("What shape is it?", "square"),
    ("Is it red?", "yes"),
    ("Is it blue?", "no"),
    ("Is this a square?", "yes"),
    ("Is it a red circle?", "no"),
    ("What is this?", "red square"),
    ("How many objects are there?", "1"),
    ("How many circles are there?", "0"),
    ("Is there a red square?", "yes"),
    ("Is there a blue square?", "no"),
  ],
)
def test_vqa_on_a_patch(question, answer):
  assert ask(world_vqa.Tool(), TWO, RED_BOX, question=question) == answer


def test_vqa_on_the_whole_image_means_the_first_noun():
  vqa = world_vqa.Tool()
  assert ask(vqa, TWO, question="What color is the blue square?") == "blue"
  assert ask(vqa, TWO, question="How many squares are there?") == "2"


def test_vqa_on_background_says_nothing():
  answer = ask(
    world_vqa.Tool(), TWO, (800, 0, 999, 99), question="What color is it?"
  )
  assert answer == "nothing"


def test_vqa_refuses_what_it_cannot_read():
  with pytest.raises(ValueError, match="cannot answer 'why"):
    ask(world_vqa.Tool(), TWO, question="Why is it there?")


def test_caption_lists_what_is_in_the_patch():
  caption = world_caption.Tool()
  assert ask(caption, TWO) == "a red square and a blue square"
  assert ask(caption, TWO, RED_BOX) == "a red square"
  assert ask(caption, picture()) == "an empty background"


def test_larger_things_are_nearer():
  image = picture((RED, 2, 2, 12, 12), (BLUE, 20, 20, 44, 44))
  depth = world_depth.Tool()
  assert ask(depth, image, (0, 0, 300, 300)) > ask(
    depth, image, (400, 400, 999, 999)
  )


def test_what_hides_another_is_nearer_even_if_smaller():
  image = picture((BLUE, 6, 6, 30, 30), (RED, 22, 22, 38, 38))
  depth = world_depth.Tool()
  blue, red = (
    ask(depth, image, (125, 125, 624, 624)),
    ask(depth, image, (458, 458, 791, 791)),
  )
  assert red < blue


def test_background_is_farthest():
  assert ask(world_depth.Tool(), TWO, (800, 0, 999, 99)) == 1.0


# "hi" in the world's typeface, two pixels per dot.
HI = np.kron(
  np.array(
    [
      [1, 0, 1, 0, 1, 1, 1],
      [1, 0, 1, 0, 0, 1, 0],
      [1, 1, 1, 0, 0, 1, 0],
      [1, 0, 1, 0, 0, 1, 0],
      [1, 0, 1, 0, 1, 1, 1],
    ]
  ),
  np.ones((2, 2)),
)


def test_ocr_reads_white_letters_on_a_sign():
  image = picture((RED, 10, 10, 22, 34))
  image[11:21, 15:29][HI > 0] = 245
  ocr = world_ocr.Tool(kinds=("square", "sign"))
  assert ask(ocr, image) == "hi"
  assert ask(ocr, image, (600, 0, 999, 999)) == ""


def test_a_blank_sign_has_no_word():
  ocr = world_ocr.Tool(kinds=("square", "sign"))
  assert ask(ocr, picture((RED, 10, 10, 22, 34))) == ""


@pytest.mark.parametrize(
  "question, answer",
  [
    ("How many corners does a triangle have?", "3"),
    ("How many sides does the red square have?", "4"),
    ("Can a circle roll?", "yes"),
    ("Can a cross roll?", "no"),
  ],
)
def test_knowledge(question, answer):
  assert world_knowledge.Tool().answer(question) == answer


def test_knowledge_in_a_sentence():
  knowledge = world_knowledge.Tool()
  question = "Can a ring roll?"
  found = ask(knowledge, None, question=question, long_answer=True)
  assert found == "A ring can roll."
  assert ask(knowledge, None, question=question, long_answer=False) == "yes"


@pytest.mark.parametrize(
  "question, match",
  [
    ("How many corners has a dog?", "knows nothing about"),
    ("What does a circle cost?", "does not know"),
  ],
)
def test_knowledge_refuses_what_is_not_in_its_table(question, match):
  with pytest.raises(ValueError, match=match):
    world_knowledge.Tool().answer(question)
