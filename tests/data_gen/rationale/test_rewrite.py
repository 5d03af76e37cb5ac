import pytest

from data_gen import records
from data_gen.filter import answers as filter_answers
from data_gen.rationale import rewrite, verify
from data_gen.trace.events import PRINT, Event

A, B, C = "21 62 229 271", "354 62 562 271", "687 62 895 271"


def trace(*facts):
  return [Event(i, 1, PRINT, None, {}, f, f) for i, f in enumerate(facts)]


def test_each_call_has_words_of_its_own():
  box, at = (21, 62, 229, 271), "21 62 229 271"
  steps = [
    ("ocr", {}, "STOP", f'at {at} is written "STOP"'),
    ("ocr", {}, "", f"at {at} are no words"),
    ("compute_depth", {}, 0.25, f"at {at} the distance is 0.25"),
    ("image_caption", {}, "a cup", f'at {at} is seen "a cup"'),
    (
      "verify_property",
      {"object_name": "cup", "attribute": "red"},
      False,
      f"at {at} the cup is not red",
    ),
    (
      "match_scores",
      {"texts": ["a cat", "a dog"]},
      [0.25, 0.75],
      f'at {at} fits "a dog" best',
    ),
  ]
  for tool, arguments, value, expected in steps:
    events = [Event(0, 1, tool, box, arguments, value, "")]
    said = rewrite.sentences("What?", events, "yes")
    assert said == f"{expected[0].upper()}{expected[1:]}. So the answer is yes."
    assert verify.fault(said, "yes", events) == ""


@pytest.mark.parametrize(
  "facts, answer, expected",
  [
    (
      (f"The blue circle is at {A}.", f"Left of it: {B}, {C}."),
      "2",
      f"{A} ; {B} , {C} ; 2",
    ),
    ((f"The circle: {A}", f"The circle: {A}"), "0", f"{A} ; 0"),
    (
      (f"Squares: {A}", "Circles: none", "1 against 0"),
      "yes",
      f"{A} ; none ; 1 0 ; yes",
    ),
    (("X: none", "Y: none", "0 0"), "no", "none ; none ; 0 0 ; no"),
    (
      (f"{A} and {B}", "left: True", f"{A} and {C}", "above: No."),
      "no",
      f"{A} , {B} ; yes ; {A} , {C} ; no ; no",
    ),
    ((f"{A} overlaps {A}",), "yes", f"{A} ; yes"),
    ((f"at {A}", "Nothing to see."), "red", f"{A} ; red"),
    (("Nothing to see.",), "red", ""),
    ((), "red", ""),
    (("12.5 meters",), "far", "12.5 ; far"),
  ],
)
def test_short(facts, answer, expected):
  assert rewrite.short(trace(*facts), answer) == expected


@pytest.mark.parametrize(
  "facts, expected",
  [
    (
      (f"The blue circle is at {A}.", f"Squares left of it: {B}, {C}."),
      f"The blue circle is at {A}. Squares left of it are at {B} and {C}."
      " So the answer is 2.",
    ),
    (
      (f"the circle: {A}", f"cars: {B}"),
      f"The circle is at {A}. Cars are at {B}. So the answer is 2.",
    ),
    (
      (f"A at {A}", "Is A left? yes.", f"B at {B}", "Is B left? no."),
      f"A at {A}; is A left: yes. B at {B}; is B left: no. So the answer is 2.",
    ),
    (
      (f"1: {A}", f"2: {B}", f"3 is at {C}", f"the last: {A}"),
      f"2: {B}. 3 is at {C}. The last is at {A}. So the answer is 2.",
    ),
  ],
)
def test_sentences(facts, expected):
  assert rewrite.sentences("How many?", trace(*facts), "2") == expected


def test_sentences_fall_back_to_what_the_tools_said():
  found = [[21, 62, 229, 271]]
  whole = (0, 0, 999, 999)
  events = [
    Event(0, 1, "find", whole, {"object_name": "cup"}, found, ""),
    Event(1, 1, "find", whole, {"object_name": "cat"}, [], ""),
    Event(
      2,
      1,
      "visual_question_answering",
      (21, 62, 229, 271),
      {"question": "What color is it?"},
      "red",
      "",
    ),
  ]
  assert rewrite.sentences("What color?", events, "red") == (
    f'1 x cup at {A}. There is no cat. At {A}, "What color is it" gives red.'
    " So the answer is red."
  )
  assert rewrite.sentences("What color?", [], "red") == ""


@pytest.mark.parametrize(
  "text, answer, expected",
  [
    (f"{A} ; 2", "2", ""),
    ("", "2", "no_fact"),
    (f"{A} ; 3", "2", "answer_not_kept"),
    (f"{A} ; 2", "two", "answer_not_kept"),
    (f"{A} ; 12", "2", "answer_not_kept"),
    (f"{A} ; 2 ; 2", "2", "number_not_in_trace"),
    (f"{B} ; 2", "2", "box_not_in_trace"),
    (f"{A} ; 7 ; 2", "2", "number_not_in_trace"),
    ("x" * 601, "x", "too_long"),
    ("One. Two. Three. Four. So the answer is 2.", "2", "too_many_sentences"),
    ("It is at 3.5 m. So the answer is 2.", "2", "number_not_in_trace"),
    ("So the answer is a.", "a", ""),
    ("So the answer is A.", "a", ""),
    ("So the answer is ", "", "answer_not_kept"),
  ],
)
def test_verify(text, answer, expected):
  events = trace(f"The circle is at {A}.")
  found = verify.fault(text, answer, events, max_sentences=4)
  assert found == expected


def test_a_box_may_come_from_a_tool_and_a_count_from_its_result():
  boxes = [[21, 62, 229, 271], [354, 62, 562, 271]]
  event = Event(0, 1, "find", (0, 0, 999, 999), {"object_name": "x"}, boxes, "")
  assert verify.fault(f"2 x at {A} and {B}. It is so", "so", [event]) == ""
  assert verify.fault(f"{C} ; so", "so", [event]) == "box_not_in_trace"


def written(facts, answers, given, labels="gold", form="short", **options):
  """The rationale of the only program, which printed facts and answered."""
  question = records.Question("q", "i", "How many?", answers, "train")
  program = records.Program("q", 3, "text", None, "w", "p")
  look = Event(0, 2, "find", (0, 0, 999, 999), {"object_name": "x"}, [], "")
  steps = (look, *trace(*facts))
  run = records.Run("q", 3, "ok", "", "", given, steps)
  choice = filter_answers.choose(
    question, [program], [run], labels=labels, **options
  )
  row = rewrite.Writer(form=form).write(question, choice, [run])
  return row, choice


def test_the_writer_uses_the_kept_run():
  row, _ = written([f"It is at {A}."], ("2",), "2")
  assert (row.text, row.reason) == (f"{A} ; 2", "")
  assert (row.form, row.program_index) == ("short", 3)


def test_the_writer_passes_on_why_there_is_none():
  row, _ = written([], ("2",), "3")
  assert (row.text, row.reason) == ("", "no_right_program")
  row, _ = written([], ("2",), "2")
  assert (row.reason, row.program_index) == ("no_fact", None)


def test_the_label_is_not_told_by_a_run_that_answers_otherwise():
  row, choice = written([f"It is at {A}."], ("2",), "3", mode="unfiltered")
  assert row.text == f"{A} ; 3"
  assert choice.answer == "2"
  row, choice = written(
    [f"The cup: {A}"], ("red",), "blue", mode="unfiltered", form="sentences"
  )
  assert row.text == f"The cup is at {A}. So the answer is blue."
  assert choice.answer == "red"


@pytest.mark.parametrize(
  "answers, given, text",
  [
    (
      ("orange", "brown"),
      "brown",
      f"What is at {A} is brown. So the answer is brown.",
    ),
    (
      ("orange", "brown"),
      "The Brown.",
      f"What is at {A} is brown. So the answer is brown.",
    ),
    (
      ("orange", "brown"),
      "orange",
      f"What is at {A} is brown. So the answer is orange.",
    ),
    (("Two",), "2", f"What is at {A} is brown. So the answer is Two."),
  ],
)
def test_it_ends_with_the_accepted_answer_that_the_run_gave(
  answers, given, text
):
  fact = f"What is at {A} is brown."
  row, choice = written([fact], answers, given, form="sentences")
  assert row.text == text
  assert choice.answer == answers[0]


def test_without_labels_the_run_decides_the_wording():
  row, choice = written([f"at {A}"], ("Two",), "2", labels="none")
  assert row.text == f"{A} ; {choice.answer}" == f"{A} ; 2"


def test_a_run_without_an_answer_gives_no_rationale():
  row, _ = written([f"at {A}"], ("2",), "", mode="unfiltered")
  assert (row.text, row.reason) == ("", "answer_not_kept")


def test_an_unknown_form_is_refused():
  with pytest.raises(ValueError, match="neither 'short' nor 'sentences'"):
    rewrite.Writer(form="long")
