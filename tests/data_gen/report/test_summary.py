"""Accuracies by hand, paired differences, and words no stronger than them."""

import dataclasses

import pytest

from data_gen.records import Question, Run
from data_gen.report import accuracy, costs, rationales, read, summary
from vpd_jax.evaluators import compare


@pytest.fixture(scope="module")
def result(workdir, runs_dir):
  return summary.build([workdir], read.training_runs(runs_dir))


def rows(result, split="test_iid"):
  return {row["key"]: row for row in result["data"][0]["accuracy"][split]}


def bundle(answers, statuses=None, gold="2"):
  statuses = statuses or ["ok"] * len(answers)
  question = Question("q", "i", "How many?", (gold,), "test", "count")
  runs = tuple(
    Run("q", i, status, "", "", answer, ())
    for i, (answer, status) in enumerate(zip(answers, statuses))
  )
  return read.Bundle(question, (), runs, None, None)


@pytest.mark.parametrize(
  ("answers", "statuses", "expected"),
  [
    (["1", "2", "2"], None, "2"),
    (["1", "two", "2"], None, "two"),  # Equal once normalised.
    (["3", "1"], None, "3"),  # A tie goes to the earliest.
    (["1", "1", "2"], ["error", "killed", "ok"], "2"),  # Failures abstain.
    (["1"], ["error"], None),
    ([], None, None),
  ],
)
def test_majority(answers, statuses, expected):
  assert accuracy.majority(bundle(answers, statuses)) == expected


def test_question_only_backs_off():
  lookup = accuracy.QuestionOnly()
  assert lookup.predict(bundle([])) is None
  for text, answers in (("How many?", ["1", "2", "2"]), ("Why?", ["9"] * 4)):
    for gold in answers:
      one = bundle([], gold=gold)
      question = dataclasses.replace(one.question, question=text)
      lookup.add(dataclasses.replace(one, question=question))
  assert lookup.predict(bundle([])) == "2"

  def ask(**changes):
    one = bundle([])
    question = dataclasses.replace(one.question, **changes)
    return lookup.predict(dataclasses.replace(one, question=question))

  assert ask(question="Unseen?") == "9"
  assert ask(question="Unseen?", family="unseen") == "9"


def test_question_only_ties_do_not_depend_on_order():
  answers = []
  for order in (("b", "a"), ("a", "b")):
    lookup = accuracy.QuestionOnly()
    for gold in order:
      lookup.add(bundle([], gold=gold))
    answers.append(lookup.predict(bundle([])))
  assert answers == ["a", "a"]


def test_accuracies_by_hand(result):
  found = {key: row["accuracy"] for key, row in rows(result).items()}
  assert found == pytest.approx(
    {
      accuracy.QUESTION_ONLY: 1.0,
      accuracy.FIRST: 0.5,
      accuracy.MAJORITY: 0.5,  # A tie between "blue" and right goes to "blue".
      accuracy.ANY: 0.75,
      "twin": 0.5,
      "twin_equal_compute": 0.75,
      "vpd": 11 / 12,
      "vpd+rationale": 1.0,
    }
  )
  assert rows(result)["twin"]["n"] == 12
  assert rows(result)["twin"]["images"] == 4
  # Even questions are right: attr asks 0, 3, 6, 9.
  assert rows(result)["twin"]["families"]["attr"]["accuracy"] == 0.5


def test_training_split_is_not_scored(result):
  assert list(result["data"][0]["accuracy"]) == ["test_iid"]


def test_differences_are_of_the_same_questions(result):
  found = {
    (d["key"], d["baseline"]): d
    for d in result["data"][0]["differences"]["test_iid"]
  }
  main = found["vpd", "twin"]
  # VPD gains the six odd questions and loses question 0.
  assert main["difference"] == pytest.approx(5 / 12)
  assert main["n"] == 12 and main["num_seeds"] == 1
  assert ("vpd", "replay") not in found


def test_rationale_quality(result):
  quality = {r["name"]: r for r in result["data"][0]["rationales"]["test_iid"]}
  assert quality["vpd"]["box_hit_rate"] == 1.0
  assert quality["vpd"]["exact_rate"] == 1.0
  assert quality["vpd"]["agrees_with_direct_rate"] == pytest.approx(11 / 12)
  assert quality["programs"]["rationales"] == 9


def test_rationale_quality_by_hand():
  question = Question(
    "q",
    "i",
    "?",
    ("2",),
    "t",
    objects=((0, 0, 100, 100),),
    reference_rationale="0 0 100 100 ; 2",
  )
  quality = rationales.Quality()
  # IoU 1 hits; 0 0 100 50 has IoU .5 and hits; 0 0 100 49 does not.
  quality.add(question, "0 0 100 100 , 0 0 100 50 ; 2", "2", "two")
  quality.add(question, "0 0 100 49 ; 2", "2", "3")
  quality.add(question, "0 0 100 100 ; 2", None, "2")
  found = rationales.to_dict(quality)
  assert found["rationales"] == 3
  assert found["boxes"] == 4
  assert found["box_hit_rate"] == 3 / 4
  assert found["all_boxes_hit_rate"] == 2 / 3
  assert found["exact_rate"] == 1 / 3
  assert found["agrees_with_direct_rate"] == 1 / 3


def test_rationale_quality_of_nothing():
  assert rationales.to_dict(rationales.Quality())["box_hit_rate"] is None


def test_costs_by_hand(result):
  # One second of writing and five of running, for 24 questions.
  assert result["data"][0]["programs_cost"] == {
    "seconds_per_question": 6 / 24,
    "programs_per_question": 3.0,
    "num_workers": 2,
  }
  by_arm = {row["arm"]: row for row in result["students_cost"]}
  assert list(by_arm) == ["twin", "twin_equal_compute", "vpd"]
  assert by_arm["vpd"] == {
    "arm": "vpd",
    "label": "VPD student",
    "num_seeds": 1,
    "cores": [1],
    "steps": 2400,
    "train_seconds": 60.0,
    "train_flops": 1.5e13,
    "direct_seconds_per_question": 0.001,
    "rationale_seconds_per_question": 0.004,
  }
  assert by_arm["twin"]["rationale_seconds_per_question"] is None
  text = summary.text(result)
  assert (
    "VPD student: 2400 steps, 60 s, 1.50e+13 FLOPs, 1.00 ms per question,"
    " direct, 4.00 ms per question, rationale"
  ) in text
  assert "3 programs per question: 250.00 ms to write and run, on 2" in text


def test_costs_are_means_over_seeds(workdir, make, tmp_path):
  for seed in range(3):
    make[1](tmp_path, f"twin-s{seed}", bool, False, seed=seed)
  (row,) = costs.of_students(read.training_runs(tmp_path))
  assert row["num_seeds"] == 3
  assert row["direct_seconds_per_question"] == pytest.approx(0.002)


def test_reused_programs_have_no_time_of_their_own(make, tmp_path):
  folder = make[0](tmp_path / "variant")
  text = (folder / "config.json").read_text()
  (folder / "config.json").write_text(text.replace('""', '"runs/world"'))
  assert costs.of_programs(folder, 24, 72) is None


def test_label_free_arms_are_paired(workdir, make, tmp_path):
  make[1](tmp_path, "pseudo", lambda i: i < 9, False)
  make[1](tmp_path, "pseudo_twin", lambda i: i < 6, False)
  result = summary.build([workdir], read.training_runs(tmp_path))
  found = {
    (d["key"], d["baseline"]): d["difference"]
    for d in result["data"][0]["differences"]["test_iid"]
  }
  assert found == pytest.approx(
    {("pseudo", "pseudo_twin"): 0.25, ("pseudo", accuracy.FIRST): 0.25}
  )


def test_without_runs_the_programs_are_reported(workdir):
  result = summary.build([workdir], [])
  assert result["headline"][0] == (
    "On test_iid, the programs' majority answers 50.0% of 12 questions."
  )
  assert "Majority of 3 programs" in summary.text(result)


def test_twin_alone_claims_nothing(workdir, make, tmp_path):
  make[1](tmp_path, "twin", bool, False)
  result = summary.build([workdir], read.training_runs(tmp_path))
  assert result["headline"][1] == "No pair of students has been compared."


def test_seeds_are_averaged_and_paired_by_seed(workdir, make, tmp_path):
  # Gains over the twin of 1, 2 and 3 questions in 12, in seeds 0, 1, 2.
  for seed in range(3):
    make[1](tmp_path, f"twin-s{seed}", lambda i: i < 6, False, seed=seed)
    make[1](
      tmp_path, f"vpd-s{seed}", lambda i, s=seed: i < 7 + s, False, seed=seed
    )
  make[1](tmp_path, "vpd-s7", bool, False, seed=7)  # Has no twin.
  result = summary.build([workdir], read.training_runs(tmp_path))
  (main,) = (
    d
    for d in result["data"][0]["differences"]["test_iid"]
    if d["baseline"] == "twin"
  )
  assert main["num_seeds"] == 3
  assert main["per_seed"] == pytest.approx([1 / 12, 2 / 12, 3 / 12])
  assert main["difference"] == pytest.approx(2 / 12)
  assert main["standard_error"] == pytest.approx(1 / 12 / 3**0.5)
  assert rows(result)["vpd"]["num_seeds"] == 4


@pytest.mark.parametrize(
  ("difference", "low", "high", "claim"),
  [
    (0.05, 0.01, 0.09, "ahead of"),
    (-0.05, -0.09, -0.01, "behind"),
    (0.05, -0.01, 0.11, "not distinguishable from"),
  ],
)
def test_headline_says_no_more_than_the_interval(difference, low, high, claim):
  interval = compare.Interval(difference, low, high, 2000, 500)
  pair = {
    "key": "vpd",
    "baseline": "twin",
    "difference": difference,
    "low": low,
    "high": high,
    "n": 2000,
    "images": 500,
    "num_seeds": 1,
    "verdict": compare.verdict(interval),
  }
  data = {"splits": {"test_iid": {}}, "differences": {"test_iid": [pair]}}
  first, second = summary.headline(data)
  assert f"is {claim} its twin" in first
  assert f"{100 * difference:+.1f} points" in first
  assert second == (
    f"95% interval {100 * low:+.1f} to {100 * high:+.1f}, on 2,000 questions"
    " about 500 images, one seed."
  )


def test_headline_tells_of_both_ways_to_answer(result):
  assert result["headline"][-1].startswith(
    "Writing its rationale before the answer, it is ahead of the twin: +50.0"
  )


def test_iid_split_leads_even_if_others_come_first(result):
  assert result["headline"][0].startswith("On test_iid, the student")


def test_text_has_every_predictor_and_pair(result):
  text = summary.text(result)
  for row in rows(result).values():
    assert row["label"] in text
  assert "vpd - twin: +41.7" in text
  assert text.endswith(result["headline"][-1])


def test_predictions_for_other_data_are_refused(workdir, make, tmp_path):
  make[1](tmp_path, "vpd", bool, False, num_questions=13)
  with pytest.raises(
    ValueError, match=r"1 questions .* such as 'test_iid-q12'"
  ):
    summary.build([workdir], read.training_runs(tmp_path))


def test_two_data_folders(workdir, make, tmp_path, runs_dir):
  other = make[0](tmp_path / "second")
  result = summary.build([workdir, other], read.training_runs(runs_dir))
  first, second = result["data"]
  assert first["name"].startswith("world (") and second["name"] != first["name"]
  assert "vpd" not in {r["key"] for r in second["accuracy"]["test_iid"]}
