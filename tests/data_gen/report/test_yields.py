"""Yields add up, and reading a damaged folder says what is wrong."""

import itertools

import pytest

from data_gen.records import to_json
from data_gen.report import read, yields


def tally(folder, split):
  counts = yields.Tally()
  for bundle in read.bundles(folder, split):
    counts.add(bundle)
  return yields.to_dict(counts)


def test_counts_by_hand(workdir):
  # Images 0..3 of three questions: first right at 0, at 2, never, at 0.
  counts = tally(workdir, "test_iid")
  assert counts["questions"] == 12
  assert counts["images"] == 4
  assert counts["programs"] == 36
  assert counts["families"] == {"attr": 4, "cmp": 4, "count": 4}
  assert counts["success_at_k"] == [6 / 12, 6 / 12, 9 / 12]
  assert counts["decisions"] == {
    "index": 12,
    "kept": 9,
    "wrong_answer": 9,
    "right": 6,
  }
  assert counts["rationales_equal_to_reference"] == {"count": 9, "of": 9}
  assert counts["writers"] == ["grammar"]


def test_funnel_adds_up(workdir):
  funnel = tally(workdir, "train")["funnel"]
  steps = [(step["step"], step["count"]) for step in funnel]
  assert steps == [("asked", 12), ("ran", 12), ("kept", 9), ("rationale", 9)]
  for before, after in itertools.pairwise(funnel):
    assert before["count"] - after["count"] == sum(after["lost"].values())
  assert funnel[2]["lost"] == {"no_right_program": 3}


def test_all_programs_failed_is_lost_where_they_ran(workdir):
  bundle = next(iter(read.bundles(workdir, "train")))
  failed = read.Bundle(
    bundle.question,
    bundle.programs[1:2],
    bundle.runs[1:2],
    type(bundle.choice)(
      bundle.question.question_id, None, "no_right_program", ("index",), "", ""
    ),
    type(bundle.rationale)(
      bundle.question.question_id, "", "no_right_program", "short", None
    ),
  )
  counts = yields.Tally()
  counts.add(failed)
  ran, kept, rationale = yields.to_dict(counts)["funnel"][1:]
  assert ran == {"step": "ran", "count": 0, "lost": {yields.ALL_FAILED: 1}}
  assert (kept["lost"], rationale["lost"]) == ({}, {})


def test_stages_that_have_not_run_are_absent(make, tmp_path):
  folder = make[0](tmp_path)
  for stage in ("programs", "runs", "choices", "rationales"):
    for path in (folder / stage).iterdir():
      path.unlink()
  counts = tally(folder, "train")
  assert [step["step"] for step in counts["funnel"]] == ["asked"]
  assert counts["success_at_k"] == []


def test_splits_come_in_reading_order(workdir):
  assert read.splits(workdir) == ["train", "test_iid"]


def test_only_and_stages_and_traces(workdir):
  (bundle,) = read.bundles(
    workdir, "train", {"train-q4"}, stages=("runs",), with_traces=False
  )
  assert bundle.question.question_id == "train-q4"
  assert bundle.programs == () and bundle.choice is None
  assert [run.index for run in bundle.runs] == [0, 1, 2]
  assert all(run.trace == () for run in bundle.runs)


def test_out_of_step_stage_names_the_question(make, tmp_path):
  folder = make[0](tmp_path)
  path = folder / "choices" / "train-00000-of-00002.jsonl"
  path.write_text("".join(path.read_text().splitlines(True)[1:]))
  with pytest.raises(
    ValueError, match="expected rows for question 'train-q0', found 'train-q1'"
  ):
    list(read.bundles(folder, "train"))


def test_malformed_line_names_file_and_line(make, tmp_path):
  folder = make[0](tmp_path)
  path = folder / "questions" / "train-00000-of-00002.jsonl"
  rows = path.read_text().splitlines(True)
  path.write_text(rows[0] + "{half a line\n")
  with pytest.raises(ValueError, match=r"train-00000-of-00002\.jsonl:2: not"):
    list(read.bundles(folder, "train", stages=()))


def test_unknown_field_is_named(make, tmp_path):
  folder = make[0](tmp_path)
  path = folder / "questions" / "train-00000-of-00002.jsonl"
  question = next(iter(read.bundles(folder, "train"))).question
  path.write_text(to_json(question)[:-1] + ',"colour":1}\n')
  with pytest.raises(ValueError, match="has no fields \\['colour'\\]"):
    list(read.bundles(folder, "train", stages=()))


def test_folder_without_questions(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"has no questions/\*\.jsonl"):
    read.splits(tmp_path)


def test_missing_image_is_named(workdir):
  assert list(read.images(workdir, "train", {"train-im0"})) == ["train-im0"]
  with pytest.raises(ValueError, match="holds no image 'gone'"):
    read.images(workdir, "train", {"gone"})


def test_training_runs_take_seed_from_the_name(make, tmp_path):
  make[1](tmp_path, "vpd-s2", bool, True)
  make[1](tmp_path, "vpd-s1", bool, True)
  make[1](tmp_path, "twin", bool, False)
  (tmp_path / "notes").mkdir()
  runs = read.training_runs(tmp_path)
  assert [(r.arm, r.seed) for r in runs] == [
    ("twin", 0),
    ("vpd", 1),
    ("vpd", 2),
  ]


def test_no_folder_of_runs(tmp_path):
  with pytest.raises(FileNotFoundError, match="leave --runs out"):
    read.training_runs(tmp_path / "none")
