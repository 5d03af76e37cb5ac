from collections import Counter

import pytest

from data_gen import records
from data_gen.writers import manifest, tfrecord

QUESTION = records.Question(
  question_id="q1",
  image_id="i1",
  question="How many?",
  answers=("2", "two"),
  split="train",
  family="count",
  reference_rationale="true",
)
PROGRAMS = [
  records.Program("q1", i, f"program {i}", None, "w", "p") for i in (0, 1)
]


def choice(**changes):
  fields = {
    "question_id": "q1",
    "kept": 1,
    "reason": "",
    "decisions": ("wrong_answer", "kept"),
    "answer": "2",
    "answer_source": "human",
  }
  return records.Choice(**fields | changes)


def rationale(text="1 2 3 4 ; 2", reason="", program_index=1):
  return records.Rationale("q1", text, reason, "short", program_index)


def test_a_record_has_the_kept_program_and_the_label():
  record = tfrecord.to_record(QUESTION, PROGRAMS, choice(), rationale())
  assert record["program"] == "program 1"
  assert record["rationale"] == "1 2 3 4 ; 2"
  assert (record["answer"], record["answer_source"]) == ("2", "human")
  assert record["answers"] == ("2", "two")


def test_without_a_right_program_the_label_stays():
  record = tfrecord.to_record(
    QUESTION,
    PROGRAMS,
    choice(kept=None, reason="no_right_program"),
    rationale("", "no_right_program", None),
  )
  assert record["answer"] == "2"
  assert record["rationale"] == record["program"] == ""


def test_the_reference_never_becomes_the_rationale():
  record = tfrecord.to_record(QUESTION, (), None, None)
  assert record["rationale"] == ""
  assert record["reference_rationale"] == "true"
  assert (record["answer"], record["answer_source"]) == ("2", "human")


def row(number, image, family, text):
  question = records.Question(f"q{number}", image, "?", ("a",), "train", family)
  return question, (), None, records.Rationale(f"q{number}", text, "", "s", 0)


def test_mismatched_takes_the_next_of_the_family_on_another_image():
  rows = [
    row(0, "i0", "count", "r0"),
    row(1, "i0", "count", "r1"),
    row(2, "i1", "attr", "r2"),
    row(3, "i1", "count", "r3"),
    row(4, "i1", "count", ""),
    row(5, "i2", "count", "r3"),
  ]
  assert tfrecord.mismatched(rows) == {
    "q0": "r3",
    "q1": "r3",
    "q2": "",
    "q3": "r0",  # Not that of q5, which says the same.
    "q5": "r0",
  }


@pytest.mark.parametrize("rationales", ["References", "", None])
def test_an_unknown_source_of_rationales_is_refused(rationales):
  with pytest.raises(ValueError, match="is not one of"):
    tfrecord.Options(rationales)


def test_yields_add_up():
  counts = Counter({"": 3, "index": 2, "arity": 1})
  assert manifest.yields(counts) == {
    "total": 6,
    "good": 3,
    "reasons": {"arity": 1, "index": 2},
  }


def test_versions_say_what_is_absent(monkeypatch):
  monkeypatch.setattr(manifest, "PACKAGES", ("numpy", "no-such-package"))
  versions = manifest.versions()
  assert versions["no-such-package"] == "absent"
  assert versions["numpy"][0].isdigit()
