import pytest

from data_gen import records
from data_gen.rationale import rewrite, verify
from data_gen.trace.events import PRINT, Event

A, B, C = "21 62 229 271", "354 62 562 271", "687 62 895 271"


def trace(*facts):
  return [Event(i, 1, PRINT, None, {}, f, f) for i, f in enumerate(facts)]


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
    (f"{A} ; 2", "two", ""),
    (f"{B} ; 2", "2", "box_not_in_trace"),
    (f"{A} ; 7 ; 2", "2", "number_not_in_trace"),
    ("x" * 601, "x", "too_long"),
    ("One. Two. Three. Four. So the answer is 2.", "2", "too_many_sentences"),
    ("It is at 3.5 m. So the answer is 2.", "2", "number_not_in_trace"),
    ("So the answer is a.", "a", ""),
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


def question_and_runs(*facts):
  question = records.Question("q", "i", "How many?", ("2",), "train")
  run = records.Run("q", 3, "ok", "", "", "2", tuple(trace(*facts)))
  return question, [run]


def choice(kept, reason=""):
  return records.Choice("q", kept, reason, (), "2", "human")


def test_the_writer_uses_the_kept_run():
  question, runs = question_and_runs(f"It is at {A}.")
  row = rewrite.Writer().write(question, choice(3), runs)
  assert (row.text, row.reason) == (f"{A} ; 2", "")
  assert (row.form, row.program_index) == ("short", 3)


def test_the_writer_passes_on_why_there_is_none():
  question, runs = question_and_runs()
  row = rewrite.Writer().write(question, choice(None, "no_right_program"), runs)
  assert (row.text, row.reason) == ("", "no_right_program")
  row = rewrite.Writer().write(question, choice(3), runs)
  assert (row.reason, row.program_index) == ("no_fact", None)


def test_an_unknown_form_is_refused():
  with pytest.raises(ValueError, match="neither 'short' nor 'sentences'"):
    rewrite.Writer(form="long")
