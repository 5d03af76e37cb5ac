"""ViperGPT's calls: each of its traps, and programs in its style, contained."""

import pytest

from data_gen.programs import parse
from data_gen.sandbox import executor as executor_lib
from data_gen.tools import api, api_viper

# Rows y 100..300 and columns x 200..600 from the top left corner.
_BOX = (100, 200, 300, 600)


class Host:
  """Answers calls and keeps them."""

  def __init__(self, **answers):
    self.calls = []
    self._answers = answers

  def __call__(self, call, box, arguments):
    self.calls.append((call, box, arguments))
    answer = self._answers[call]
    return answer(box, arguments) if callable(answer) else answer

  @property
  def names(self):
    return [call for call, _, _ in self.calls]


def patch_of(box=_BOX, host=None):
  return api_viper.ImagePatch(api.Image(host))._at(box)


def functions(host=None):
  return api_viper.Functions(host)


def test_the_origin_is_at_the_lower_left():
  patch = patch_of()
  assert (patch.left, patch.right) == (200, 600)
  assert (patch.lower, patch.upper) == (699, 899)
  assert (patch.horizontal_center, patch.vertical_center) == (400, 799)
  assert (patch.width, patch.height) == (400, 200)
  above = patch_of((0, 0, 50, 50))
  assert above.vertical_center > patch.vertical_center
  assert above.lower > patch.upper


def test_coordinates_are_the_grids_whatever_the_image():
  whole = api_viper.ImagePatch(api.Image(None))
  assert (whole.left, whole.lower, whole.right, whole.upper) == (0, 0, 999, 999)
  assert "not pixels" in api_viper.ImagePatch.__doc__


@pytest.mark.parametrize(
  ("borders", "text"),
  [
    ({}, "0 0 999 999"),
    ({"right": 500}, "0 0 999 500"),
    (
      {"left": 200, "lower": 699, "right": 600, "upper": 899},
      "100 200 300 600",
    ),
    ({"upper": 1500.4, "left": -3}, "0 0 999 999"),
    ({"left": 10.6}, "0 11 999 999"),
  ],
)
def test_a_patch_inside_borders(borders, text):
  assert str(api_viper.ImagePatch(api.Image(None), **borders)) == text


def test_borders_go_left_lower_right_upper():
  patch = api_viper.ImagePatch(api.Image(None), 200, 699, 600, 899)
  assert patch == patch_of()


@pytest.mark.parametrize(
  ("arguments", "error", "match"),
  [
    (("photo.jpg",), TypeError, "takes the image given"),
    ((api.Image(None), 5, 0, 5), ValueError, r"ImagePatch\(left=5.* no area"),
    ((api.Image(None), "5"), TypeError, "left must be a number, not str"),
    (
      (api.Image(None), float("inf")),
      ValueError,
      "left must be a number on the scale",
    ),
  ],
)
def test_a_patch_that_cannot_be(arguments, error, match):
  with pytest.raises(error, match=match):
    api_viper.ImagePatch(*arguments)


def test_a_crop_in_a_crop_keeps_the_images_coordinates_and_has_no_margin():
  outer = api_viper.ImagePatch(api.Image(None)).crop(200, 200, 800, 800)
  inner = outer.crop(300, 300, 500, 500)
  assert (inner.left, inner.lower, inner.right, inner.upper) == (
    *(300, 300),
    *(500, 500),
  )
  assert all(type(v) is int for v in (inner.left, inner.upper, inner.width))
  host = Host(find=[[1, 2, 3, 4]])
  (found,) = patch_of(host=host).find("cup")
  assert str(found) == "1 2 3 4"
  assert found.crop(found.left, found.lower, found.right, found.upper) == found


@pytest.mark.parametrize("name", ["object", "objects", "person", "Red Cup"])
def test_find_passes_the_name_as_it_is(name):
  host = Host(find=[])
  assert patch_of(host=host).find(name) == []
  assert host.calls == [("find", _BOX, {"object_name": name})]


TWO = [[100, 200, 150, 250], [200, 300, 250, 350]]


@pytest.mark.parametrize(
  ("boxes", "answers", "expected", "calls"),
  [
    ([], (), False, 1),
    (TWO, ("yes", "no"), True, 2),
    (TWO, ("no", "Yes, it is."), True, 3),
    (TWO, ("no", "no"), False, 3),
    (TWO[:1], ("eyes",), False, 2),  # "yes" is a word, not letters.
    (TWO[:1], ("yesterday",), False, 2),
    (TWO[:1], (" YES",), True, 2),
  ],
)
def test_exists_is_a_detection_and_a_question_a_patch(
  boxes, answers, expected, calls
):
  left = list(answers)
  host = Host(find=boxes, visual_question_answering=lambda *_: left.pop(0))
  assert patch_of(host=host).exists("apple") is expected
  assert len(host.calls) == calls
  for (name, box, arguments), found in zip(host.calls[1:], boxes):
    assert (name, box) == ("visual_question_answering", tuple(found))
    assert arguments == {"question": "Is this an apple?"}


@pytest.mark.parametrize(
  ("name", "answer", "expected"),
  [
    ("7", "7", True),
    ("7", "seven", True),
    ("number seven", "It is 7.", True),
    ("Number 7", "17", False),
    ("twenty-one", "21", True),
    ("7", "nothing", False),
  ],
)
def test_exists_of_a_number_reads_it(name, answer, expected):
  host = Host(visual_question_answering=answer)
  assert patch_of(host=host).exists(name) is expected
  assert host.names == ["visual_question_answering"]
  assert "number" in host.calls[0][2]["question"]


@pytest.mark.parametrize("name", ["number plate", "two dogs", "7up", "numbers"])
def test_exists_of_a_thing_with_a_number_in_its_name_finds_it(name):
  host = Host(find=[])
  assert patch_of(host=host).exists(name) is False
  assert host.names == ["find"]


def test_verify_property_takes_two_arguments_and_says_so():
  host = Host(verify_property=True)
  assert patch_of(host=host).verify_property("cup", "blue") is True
  arguments = {"object_name": "cup", "attribute": "blue"}
  assert host.calls == [("verify_property", _BOX, arguments)]
  with pytest.raises(TypeError, match="missing 1 required"):
    patch_of(host=host).verify_property("blue")
  summary = api_viper.ImagePatch.verify_property.__doc__.split(".\n")[0]
  assert "Takes two arguments" in summary


def test_the_question_of_simple_query_may_be_left_out():
  host = Host(visual_question_answering="a cup")
  assert patch_of(host=host).simple_query() == "a cup"
  question = {"question": "What is this?"}
  assert host.calls == [("visual_question_answering", _BOX, question)]


def test_depth_is_a_float_and_larger_is_farther():
  depth = patch_of(host=Host(compute_depth=2)).compute_depth()
  assert depth == 2 and type(depth) is float
  assert "larger is farther" in api_viper.ImagePatch.compute_depth.__doc__


@pytest.mark.parametrize(
  ("borders", "expected"),
  [
    ((200, 699, 600, 899), True),  # Itself.
    ((599, 0, 999, 999), True),
    ((600, 0, 999, 999), False),  # Touches at the right.
    ((0, 0, 999, 699), False),  # Touches below.
    ((0, 0, 999, 700), True),
    ((0, 899, 999, 999), False),
    ((300, 750, 310.2, 760), True),
  ],
)
def test_overlaps_with_is_a_shared_area(borders, expected):
  assert patch_of().overlaps_with(*borders) is expected


def test_overlaps_with_takes_numbers():
  with pytest.raises(TypeError, match="missing 3 required"):
    patch_of().overlaps_with(patch_of())
  with pytest.raises(TypeError, match="left must be a number"):
    patch_of().overlaps_with(patch_of(), 0, 0, 0)


def by_length(box, arguments):
  return [float(len(text)) for text in arguments["texts"]]


def test_best_text_match():
  host = Host(match_scores=by_length)
  patch = patch_of(host=host)
  assert patch.best_text_match(["red", "green", "blue"]) == "green"
  assert patch.best_text_match(("a", "bb"), prefix="a wall of") == "bb"
  assert patch.best_text_match(["b", "a"]) == "b"  # The first of equals.
  assert [call[2]["texts"] for call in host.calls] == [
    ["red", "green", "blue"],
    ["a wall of a", "a wall of bb"],
    ["b", "a"],
  ]


@pytest.mark.parametrize("options", [[], "red", None, [1, 2], {"a": 1}])
def test_best_text_match_takes_a_list_of_texts(options):
  host = Host()
  with pytest.raises(api.ToolRefused, match="option_list must be"):
    patch_of(host=host).best_text_match(options)
  assert host.calls == []


def patches(host, *lefts):
  return [patch_of((0, left, 100, left + 100), host) for left in lefts]


def test_best_image_match_takes_the_best_mean():
  scores = {0: [0.9, 0.0], 300: [0.5, 0.6], 600: [0.1, 0.9]}
  host = Host(match_scores=lambda box, _: scores[box[1]])
  three = patches(host, 0, 300, 600)
  match = functions(host).best_image_match
  assert match(three, ["a", "b"]) is three[1]
  assert match(three, ["a", "b"], return_index=True) == 1
  assert len(host.calls) == 6


def test_best_image_match_of_one_text_and_of_equals():
  host = Host(match_scores=[0.5])
  two = patches(host, 0, 300)
  assert functions(host).best_image_match(two, "a dog") is two[0]
  assert host.calls[0][2] == {"texts": ["a dog"]}


@pytest.mark.parametrize("return_index", [False, True])
def test_best_image_match_of_no_patches_is_none(return_index):
  host = Host()
  assert functions(host).best_image_match([], ["a"], return_index) is None
  assert host.calls == []


def test_best_image_match_takes_patches_and_texts():
  match = functions(Host()).best_image_match
  with pytest.raises(TypeError, match="takes a patch, not str"):
    match(["cup"], ["a"])
  with pytest.raises(api.ToolRefused, match="content must be a list of texts"):
    match([patch_of()], [])


@pytest.mark.parametrize(
  ("a", "b", "expected"),
  [
    ((0, 0, 100, 100), (0, 200, 100, 300), 100),  # Side by side.
    ((0, 0, 100, 100), (300, 0, 400, 100), 200),  # One over the other.
    ((0, 0, 100, 100), (130, 140, 200, 200), 50),  # Across a corner.
    ((0, 0, 100, 100), (0, 100, 100, 200), 0),  # Touching.
    ((0, 0, 100, 100), (0, 50, 100, 150), -1 / 3),
    ((0, 0, 100, 100), (0, 0, 100, 100), -1),
    ((0, 0, 100, 100), (0, 0, 50, 50), -0.25),
  ],
)
def test_distance_is_between_borders_and_negative_in_an_overlap(a, b, expected):
  distance = functions().distance
  a, b = patch_of(a), patch_of(b)
  assert distance(a, b) == distance(b, a) == pytest.approx(expected)


def test_distance_of_numbers():
  assert functions().distance(3, 5.5) == 2.5
  with pytest.raises(TypeError, match="distance takes a patch, not int"):
    functions().distance(patch_of(), 3)


def test_bool_to_yesno_takes_a_bool_only():
  to_text = functions().bool_to_yesno
  assert (to_text(True), to_text(False)) == ("yes", "no")
  for value in ("no", 1, None, []):
    with pytest.raises(TypeError, match="takes a bool, not"):
      to_text(value)


def test_coerce_to_numeric():
  coerce = functions().coerce_to_numeric
  assert coerce("25to26") == 25
  assert coerce("twelve") == 12
  assert (coerce(4), coerce(2.5)) == (4, 2.5)
  assert coerce("none at all") == "none at all"
  with pytest.raises(ValueError, match="no number in 'none'"):
    coerce("none", no_string=True)
  for value in (None, True, ["3"]):
    with pytest.raises(api.ToolRefused, match="coerce_to_numeric must be text"):
      coerce(value)


def test_language_calls_say_how_long_and_carry_no_patch():
  host = Host(language_question_answering="wool")
  patch_of(host=host).llm_query("Why?")
  patch_of(host=host).llm_query("Why?", long_answer=False)
  functions(host).llm_query("Why?")
  functions(host).llm_query("Why?", "It rains.", False)
  functions(host).process_guesses("Who?")
  functions(host).process_guesses("Who?", "Ann", "Bob")
  assert {box for _, box, _ in host.calls} == {None}
  assert set(host.names) == {"language_question_answering"}
  assert [tuple(a.values()) for _, _, a in host.calls] == [
    ("Why?", True),
    ("Why?", False),
    ("Why?", True),
    ("Why?\nContext: It rains.", False),
    ("Who?", False),
    ("Who?\nA guess, maybe wrong: Ann\nA guess, maybe wrong: Bob", False),
  ]


@pytest.mark.parametrize(
  "ask",
  [
    lambda p, f: p.find(3),
    lambda p, f: p.exists(None),
    lambda p, f: p.simple_query(None),
    lambda p, f: p.verify_property("cup", ["blue"]),
    lambda p, f: p.llm_query(3),
    lambda p, f: p.llm_query("Why?", long_answer="yes"),
    lambda p, f: f.llm_query("Why?", context=["It rains."]),
    lambda p, f: f.process_guesses("Who?", 3),
  ],
)
def test_arguments_of_a_wrong_type_are_refused_before_any_call(ask):
  host = Host()
  with pytest.raises(api.ToolRefused, match="must be"):
    ask(patch_of(host=host), functions(host))
  assert host.calls == []


@pytest.fixture(scope="module")
def executor():
  with executor_lib.Executor(profile="viper", wall_time_s=20) as executor:
    yield executor


def answer(call, box, arguments):
  """A street: two people, a bus behind them, a sign."""
  if call == "find":
    return {
      "person": [[300, 100, 900, 250], [310, 600, 900, 750]],
      "bus": [[200, 400, 700, 900]],
      "sign": [[50, 50, 120, 120]],
    }.get(arguments["object_name"], [])
  if call == "verify_property":
    return box[1] == 600
  if call == "match_scores":
    return [box[1] / 1000 + len(t) / 100 for t in arguments["texts"]]
  if call == "compute_depth":
    return 9.0 if box[1] == 400 else 2.0
  if call == "language_question_answering":
    return "a long story" if arguments["long_answer"] else "London"
  question = arguments["question"]
  if "number" in question or "limit" in question:
    return "25to26"
  return "yes" if question.startswith("Is this") else "a bus"


PROGRAMS = {
  "exists": ("return bool_to_yesno(patch.exists('bus'))", "yes"),
  "is not there": ("return bool_to_yesno(patch.exists('cat'))", "no"),
  "raw bool": ("return patch.exists('cat')", "no"),
  "number": ("return bool_to_yesno(patch.exists('25'))", "yes"),
  "count": ("return str(len(patch.find('person')))", "2"),
  "property": (
    """
people = patch.find("person")
tall = [p for p in people if p.verify_property("person", "tall")]
return tall[0].left
""",
    "600",
  ),
  "left to right": (
    """
people = patch.find("person")
people.sort(key=lambda person: person.horizontal_center)
return "left" if people[0].left < 200 else "right"
""",
    "left",
  ),
  "depth": (
    """
people, bus = patch.find("person"), patch.find("bus")[0]
front = [p for p in people if p.compute_depth() < bus.compute_depth()]
return len(front)
""",
    "2",
  ),
  "best text": (
    "return patch.best_text_match(['red', 'green'], prefix='a bus in')",
    "green",
  ),
  "best image": (
    """
people = patch.find("person")
return best_image_match(people, ["man in a hat"], return_index=True)
""",
    "1",
  ),
  "no patches": ("return str(best_image_match([], ['x']) is None)", "True"),
  "nearest": (
    """
bus = patch.find("bus")[0]
nearest = min(patch.find("person"), key=lambda p: distance(p, bus))
return nearest
""",
    "310 600 900 750",
  ),
  "overlap": (
    """
bus, (a, b) = patch.find("bus")[0], patch.find("person")
hits = [bus.overlaps_with(p.left, p.lower, p.right, p.upper) for p in (a, b)]
return hits
""",
    "no, yes",
  ),
  "crop": (
    """
person = patch.find("person")[1]
right = patch.crop(person.right, 0, patch.right, patch.upper)
return f"{right.left} {right.width}"
""",
    "750 249",
  ),
  "numeric": (
    """
sign = patch.find("sign")[0]
limit = coerce_to_numeric(sign.simple_query("What is the limit?"))
return limit + 5
""",
    "30",
  ),
  "simple query": ("return patch.simple_query()", "a bus"),
  "guesses": (
    """
guess = patch.simple_query("Which city is this?")
return process_guesses("Which city is this?", guess, llm_query("Where?"))
""",
    "London",
  ),
  "knowledge": (
    "return patch.llm_query('What is it for?', long_answer=False)",
    "London",
  ),
  "half image": ("return ImagePatch(image, right=500).width", "500"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_in_its_style_run_contained(executor, name):
  body, expected = PROGRAMS[name]
  lines = ["patch = ImagePatch(image)", *body.strip().split("\n")]
  text = f"def {parse.NAME}(image):\n" + "\n".join(f"  {x}" for x in lines)
  outcome = executor.run(text, answer)
  assert (outcome.status, outcome.answer) == ("ok", expected), outcome


@pytest.mark.parametrize(
  ("expression", "error_class"),
  [
    ("patch.verify_property('red')", "arity"),
    ("patch.overlaps_with(patch)", "arity"),
    ("patch.best_text_match([])", "tool_refused"),
    ("patch.find('cat')[0]", "index"),
    ("patch.crop(5, 5, 5, 5)", "value"),
    ("bool_to_yesno('no')", "type"),
    ("coerce_to_numeric('none', no_string=True)", "value"),
    ("patch.simple_query(None)", "tool_refused"),
    ("patch.image_caption()", "attribute"),  # VPD's set only.
    ("formatting_answer(1)", "name"),
    ("best_image_match([], ['x'])", "no_answer"),
    ("patch._image", "refused"),
    ("patch._image._call('find', None, {})", "refused"),
    ("'{0._image}'.format(patch)", "value"),
  ],
)
def test_faults_have_a_class_and_the_host_is_out_of_reach(
  executor, expression, error_class
):
  text = f"def {parse.NAME}(image):\n  patch = ImagePatch(image)\n"
  outcome = executor.run(f"{text}  return {expression}", answer)
  assert outcome.error_class == error_class, outcome
