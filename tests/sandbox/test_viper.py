"""Programs as ViperGPT's writer makes them, in that API: ordinary, hostile."""

import pytest

from tests.sandbox import contained


@pytest.fixture(scope="module")
def viper():
  with contained.start(profile="viper", max_llm_calls=3) as executor:
    yield executor


def seeing_tool(call, box, arguments):
  """Three cars and a dog; the left car is red; longer texts fit better."""
  if call == "find":
    return contained.BOXES.get(arguments["object_name"], [])
  if call == "verify_property":
    return arguments["attribute"] == ("red" if box[1] == 0 else "blue")
  if call == "match_scores":
    return [len(text) - box[1] / 1000 for text in arguments["texts"]]
  if call == "compute_depth":
    return float(box[0])
  if call == "visual_question_answering":
    return "yes" if "Is this" in arguments["question"] else "about 25 people"
  return {"language_question_answering": "wool", "image_caption": "a car"}[call]


BENIGN = {
  "exists": (
    "return bool_to_yesno(ImagePatch(image).exists('dog'))",
    "yes",
  ),
  "exists_not": (
    "patch = ImagePatch(image)\n"
    "return bool_to_yesno(patch.exists('dog') and patch.exists('cat'))",
    "no",
  ),
  "verify_property": (
    """
cars = ImagePatch(image).find("car")
return [car.verify_property("car", "red") for car in cars]""",
    "yes, no, no",
  ),
  "choose": (
    "return ImagePatch(image).best_text_match(['red', 'green'], prefix='a')",
    "green",
  ),
  "simple_query": (
    "return ImagePatch(image).simple_query('How many people are there?')",
    "about 25 people",
  ),
  "query_left_out": (
    "return ImagePatch(image).simple_query()",
    "about 25 people",
  ),
  "to_number": (
    "n = coerce_to_numeric(ImagePatch(image).simple_query('How many?'))\n"
    "return n + 1",
    "26",
  ),
  "leftmost": (
    """
car_patches = ImagePatch(image).find("car")
car_patches.sort(key=lambda car: car.horizontal_center)
return bool_to_yesno(car_patches[0].verify_property("car", "red"))""",
    "yes",
  ),
  "compare_depth": (
    """
a, b, c = ImagePatch(image).find("car")
return "front" if a.compute_depth() < c.compute_depth() else "back" """,
    "front",
  ),
  "best_image_match": (
    """
cars = ImagePatch(image).find("car")
return best_image_match(cars, ["red car"], return_index=True)""",
    "0",
  ),
  "distance_of_patches": (
    """
dog = ImagePatch(image).find("dog")[0]
cars = ImagePatch(image).find("car")
cars.sort(key=lambda car: distance(car, dog))
return str(cars[0])""",
    "600 300 900 400",
  ),
  "distance_of_numbers": ("return distance(2, 3.5)", "1.5"),
  "crop_left_of": (
    """
patch = ImagePatch(image)
dog = patch.find("dog")[0]
return patch.crop(patch.left, patch.lower, dog.left, patch.upper).width""",
    "500",
  ),
  "overlaps_with": (
    """
a, dog = ImagePatch(image).find("car")[0], ImagePatch(image).find("dog")[0]
over = a.overlaps_with(dog.left, dog.lower, dog.right, dog.upper)
return bool_to_yesno(over)""",
    "no",
  ),
  "llm_query": (
    "return ImagePatch(image).llm_query('What gives wool?', long_answer=False)",
    "wool",
  ),
  "process_guesses": (
    "guess = ImagePatch(image).simple_query('What?')\n"
    "return process_guesses('What?', guess, 'a car')",
    "wool",
  ),
  "patch_with_borders": (
    "return ImagePatch(image, left=100, upper=500).height",
    "500",
  ),
  "patch_as_answer": (
    "return ImagePatch(image).find('dog')[0]",
    "500 500 999 999",
  ),
}


@pytest.mark.parametrize("name", BENIGN)
def test_ordinary_program(viper, name):
  body, answer = BENIGN[name]
  outcome = contained.run(viper, body, seeing_tool)
  assert (outcome.status, outcome.message) == ("ok", "")
  assert outcome.answer == answer


HOSTILE = {
  "private": ("return ImagePatch(image)._ask('find')", "refused"),
  "other_api": ("return ocr(ImagePatch(image))", "name"),
  "options_that_are_no_texts": (
    "return ImagePatch(image).best_text_match([1, None])",
    "tool_refused",
  ),
  "options_that_never_end": (
    "return ImagePatch(image).best_text_match(iter(int, 1))",
    "tool_refused",
  ),
  "huge_options": (
    "return ImagePatch(image).best_text_match(['x' * 10 ** 6] * 9)",
    "value",
  ),
  "borders_that_are_none": (
    "return ImagePatch(image, float('nan')).left",
    "value",
  ),
  "borders_inside_out": ("return ImagePatch(image, 9, 9, 5, 5)", "value"),
  "patch_list_of_numbers": ("return best_image_match([1], 'x')", "type"),
  "yes_of_a_text": ("return bool_to_yesno('no')", "type"),
  "number_of_a_patch": (
    "return coerce_to_numeric(ImagePatch(image))",
    "tool_refused",
  ),
  "flood_of_the_language_model": (
    "while True:\n  try: llm_query('x')\n  except Exception: pass",
    "llm_calls",
  ),
  "flood_of_guesses": (
    "for i in range(9): process_guesses(str(i))",
    "llm_calls",
  ),
  "flood_of_scores": (
    "while True: ImagePatch(image).best_text_match(['x'])",
    "tool_calls",
  ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program(viper, name):
  body, error_class = HOSTILE[name]
  outcome = contained.run(viper, body, seeing_tool)
  assert (outcome.error_class, outcome.answer) == (error_class, None)


def test_a_number_word_that_never_ends_is_ended(viper):
  body = "return coerce_to_numeric('billion ' * 10 ** 6, True)"
  outcome = contained.run(viper, body)
  assert outcome.answer is None
