import dataclasses

import pytest

from data_gen import records
from data_gen.filter import answers, dedupe
from data_gen.trace.events import Event

QUESTION = records.Question("q", "i", "How many?", ("2", "two"), "train")
LOOK = Event(0, 2, "find", (0, 0, 999, 999), {"object_name": "cup"}, [], "")
THINK = Event(0, 2, "language_question_answering", None, {}, "2", "")


def samples(*rows):
  """(score, answer or error class, trace) -> programs and runs."""
  programs, runs = [], []
  for index, (score, answer, *trace) in enumerate(rows):
    programs.append(records.Program("q", index, "text", score, "w", "p"))
    is_fault = answer in ("index", "syntax")
    run = records.Run(
      "q",
      index,
      "error" if is_fault else "ok",
      answer if is_fault else "",
      "",
      None if is_fault else answer,
      tuple(trace or [LOOK]),
    )
    runs.append(run)
  return programs, runs


def test_the_right_program_with_the_highest_score_is_kept():
  programs, runs = samples(
    (-0.1, "3"), (-0.9, "2"), (-0.2, "Two."), (-0.3, "index"), (-0.2, "2")
  )
  choice = answers.choose(QUESTION, programs, runs)
  assert choice.kept == 2
  assert choice.decisions == ("wrong_answer", "right", "kept", "index", "right")
  assert (choice.answer, choice.answer_source) == ("2", "human")
  assert choice.reason == ""


def test_without_scores_the_first_right_one_is_kept():
  programs, runs = samples((None, "3"), (None, "2"), (None, "2"))
  assert answers.choose(QUESTION, programs, runs).kept == 1


def test_a_program_that_does_not_look_is_not_kept():
  programs, runs = samples((-0.1, "2", THINK), (-0.9, "2", THINK, LOOK))
  choice = answers.choose(QUESTION, programs, runs)
  assert choice.decisions == ("no_tool_call", "kept")


def test_none_right_keeps_the_label():
  programs, runs = samples((-0.1, "3"), (-0.2, "syntax"))
  choice = answers.choose(QUESTION, programs, runs)
  assert (choice.kept, choice.reason) == (None, "no_right_program")
  assert (choice.answer, choice.answer_source) == ("2", "human")


def test_unlabelled_takes_the_first_that_ran():
  question = dataclasses.replace(QUESTION, answers=())
  programs, runs = samples((-0.1, "index"), (-0.9, "3"), (-0.1, "2"))
  choice = answers.choose(question, programs, runs)
  assert choice.decisions == ("index", "kept", "right")
  assert (choice.answer, choice.answer_source) == ("3", "program")


def test_unlabelled_and_none_ran():
  question = dataclasses.replace(QUESTION, answers=())
  choice = answers.choose(question, *samples((-0.1, "index")))
  assert (choice.kept, choice.reason) == (None, "no_program_ran")
  assert (choice.answer, choice.answer_source) == ("", "")


def test_unfiltered_keeps_a_wrong_program_and_the_label():
  programs, runs = samples((-0.1, "syntax"), (-0.9, "3"), (-0.1, "2"))
  choice = answers.choose(QUESTION, programs, runs, mode="unfiltered")
  assert choice.decisions == ("syntax", "kept", "right")
  assert (choice.answer, choice.answer_source) == ("2", "human")


def test_pseudo_labels_are_for_training_only():
  programs, runs = samples((-0.1, "3"), (-0.1, "2"))
  choice = answers.choose(QUESTION, programs, runs, labels="none")
  assert (choice.answer, choice.answer_source) == ("3", "program")
  question = dataclasses.replace(QUESTION, split="test_iid")
  choice = answers.choose(question, programs, runs, labels="none")
  assert (choice.answer, choice.answer_source) == ("2", "human")


def test_max_programs_uses_the_first_ones():
  programs, runs = samples((-0.9, "3"), (-0.1, "2"))
  choice = answers.choose(QUESTION, programs, runs, max_programs=1)
  assert choice.decisions == ("wrong_answer", "not_used")
  assert choice.reason == "no_right_program"


@pytest.mark.parametrize("option", [{"mode": "best"}, {"labels": "silver"}])
def test_an_unknown_option_is_refused(option):
  with pytest.raises(ValueError, match="is neither"):
    answers.choose(QUESTION, (), (), **option)


def test_dedupe_looks_at_image_and_wording():
  seen = dedupe.Seen()
  assert seen.add(QUESTION)
  assert not seen.add(dataclasses.replace(QUESTION, question="how many"))
  assert seen.add(dataclasses.replace(QUESTION, image_id="j"))
  assert seen.add(dataclasses.replace(QUESTION, question="How many cups?"))
