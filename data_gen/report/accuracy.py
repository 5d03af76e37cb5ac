"""Accuracy of every predictor on every split, and paired differences.

Predictors are of three sorts: a lookup that never sees the picture, the
programs themselves, and trained students. Each is a table seed -> question ->
0 or 1; what has no seed has the one seed None.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_gen.report.read import Bundle, Prediction, TrainingRun
from data_gen.report.yields import is_right
from vpd_jax.evaluators import compare, scoring

QUESTION_ONLY = "question_only"
FIRST = "program_first"
MAJORITY = "program_majority"
ANY = "program_any"
WITH_RATIONALE = "+rationale"  # after an arm's name: rationale, then answer.

_ARM_LABELS = {
  "twin": "Twin: labels only",
  "twin_equal_compute": "Twin at equal compute",
  "vpd": "VPD student",
  "clean": "VPD, true rationales (upper bound)",
  "unfiltered": "VPD, unfiltered rationales",
  "k1": "VPD, one program per question",
  "pseudo": "Label-free: answers and rationales of one unfiltered program",
  "pseudo_twin": "Label-free: answers of one unfiltered program only",
  "replay": "Labels and replay of base tasks",
  "mismatched": "VPD, mismatched rationales (control)",
}

# (predictor, baseline), in the order of the report.
PAIRS = (
  ("vpd", "twin"),
  ("vpd", "twin_equal_compute"),
  ("vpd" + WITH_RATIONALE, "twin"),
  ("vpd" + WITH_RATIONALE, "twin_equal_compute"),
  ("vpd" + WITH_RATIONALE, "vpd"),
  ("vpd", MAJORITY),
  ("vpd", "replay"),
  ("vpd", "mismatched"),
  ("vpd", "unfiltered"),
  ("vpd", "k1"),
  ("clean", "vpd"),
  ("mismatched", "twin"),
  ("replay", "twin"),
  ("pseudo", "pseudo_twin"),
  ("pseudo", FIRST),
)


@dataclasses.dataclass(frozen=True)
class Predictor:
  """Something that answers questions.

  Attributes:
    key: its name in summary.json; an arm's name for a direct answer.
    label: for readers.
    scores: seed -> question_id -> 1.0 if right, else 0.0.
  """

  key: str
  label: str
  scores: Mapping[int | None, Mapping[str, float]]


class QuestionOnly:
  """Majority answer to the same question, else of its family, in training."""

  def __init__(self):
    self._by_question = collections.defaultdict(collections.Counter)
    self._by_family = collections.defaultdict(collections.Counter)
    self._overall = collections.Counter()

  def add(self, bundle: Bundle) -> None:
    """Learns from one training question."""
    question = bundle.question
    if question.answers:
      answer = question.answers[0]
      self._by_question[question.question][answer] += 1
      self._by_family[question.family][answer] += 1
      self._overall[answer] += 1

  def predict(self, bundle: Bundle) -> str | None:
    """Its answer; None if it learnt from nothing. Ties: first by spelling."""
    for counts in (
      self._by_question.get(bundle.question.question),
      self._by_family.get(bundle.question.family),
      self._overall,
    ):
      if counts:
        return min(counts, key=lambda answer: (-counts[answer], answer))
    return None


def majority(bundle: Bundle) -> str | None:
  """The programs' most common answer; failed ones abstain, ties: earliest."""
  votes = [
    (scoring.normalize(run.answer or ""), run.answer)
    for run in bundle.runs
    if run.status == "ok"
  ]
  if not votes:
    return None
  counts = collections.Counter(normal for normal, _ in votes)
  return max(votes, key=lambda vote: counts[vote[0]])[1]


@dataclasses.dataclass
class DataScores:
  """Scores of what needs no training, on one split; feed it with `add`.

  Attributes:
    question_only: fitted on the training split; None on that split itself.
    images, families: question_id -> its image and its family.
    scores: predictor key -> question_id -> 0 or 1.
    num_programs: most programs of one question.
  """

  question_only: QuestionOnly | None
  images: dict[str, str] = dataclasses.field(default_factory=dict)
  families: dict[str, str] = dataclasses.field(default_factory=dict)
  scores: dict[str, dict[str, float]] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(dict)
  )
  num_programs: int = 0

  def add(self, bundle: Bundle) -> None:
    """Scores one question; one without a label is left out."""
    question = bundle.question
    if not question.answers:
      return
    self.images[question.question_id] = question.image_id
    self.families[question.question_id] = question.family

    def note(key, is_correct):
      self.scores[key][question.question_id] = float(is_correct)

    if self.question_only is not None:
      guess = self.question_only.predict(bundle)
      if guess is not None:
        note(QUESTION_ONLY, scoring.exact_match(guess, question.answers))
    if bundle.runs:
      right = [is_right(run, question.answers) for run in bundle.runs]
      vote = majority(bundle) or ""
      note(FIRST, right[0])
      note(MAJORITY, scoring.exact_match(vote, question.answers))
      note(ANY, any(right))
      self.num_programs = max(self.num_programs, len(bundle.runs))


def arms(runs: Sequence[TrainingRun]) -> list[str]:
  """The runs' arms: those with a label in its order, then others by name."""
  known = list(_ARM_LABELS)

  def order(arm):
    return (known.index(arm) if arm in known else len(known), arm)

  return sorted({run.arm for run in runs}, key=order)


def arm_label(arm: str) -> str:
  """An arm's name for readers; its own name if it has no other."""
  return _ARM_LABELS.get(arm, arm)


def predictors(
  data: DataScores, runs: Sequence[TrainingRun], split: str
) -> list[Predictor]:
  """All predictors of a split, on the questions that the students answered.

  Without students every labelled question counts.

  Raises:
    ValueError: if a student answered a question that the split does not have.
  """
  students = [run for run in runs if split in run.predictions]
  asked = set().union(*(run.predictions[split] for run in students))
  unknown = sorted(asked - set(data.images))
  if unknown:
    raise ValueError(
      f"{students[0].name} and others have predictions for {len(unknown)}"
      f" questions that the {split} split does not have, such as"
      f" {unknown[0]!r}. Name as --data the data that they were evaluated on."
    )
  k = data.num_programs
  out = []
  for key, label in (
    (QUESTION_ONLY, "Question only, no picture"),
    (FIRST, "One program, unfiltered"),
    (MAJORITY, f"Majority of {k} programs"),
    (ANY, f"Any of {k} programs right (needs the label)"),
  ):
    scores = data.scores.get(key, {})
    if students:
      scores = {i: s for i, s in scores.items() if i in asked}
    if scores:
      out.append(Predictor(key, label, {None: scores}))
  for arm in arms(students):
    of_arm = [run for run in students if run.arm == arm]
    label = arm_label(arm)
    direct = {
      run.seed: _scores(run.predictions[split].values(), "direct_is_correct")
      for run in of_arm
    }
    reasoned = {
      run.seed: _scores(run.predictions[split].values(), "rationale_is_correct")
      for run in of_arm
    }
    reasoned = {seed: scores for seed, scores in reasoned.items() if scores}
    if reasoned:
      out.append(Predictor(arm, f"{label}: direct answer", direct))
      out.append(
        Predictor(
          arm + WITH_RATIONALE, f"{label}: rationale, then answer", reasoned
        )
      )
    else:
      out.append(Predictor(arm, label, direct))
  return out


def row(predictor: Predictor, data: DataScores) -> dict[str, Any]:
  """One line of the accuracy table, as plain values."""
  means = _mean_over_seeds(predictor.scores)
  per_seed = [_mean(scores.values()) for scores in predictor.scores.values()]
  families = {}
  for family in sorted({data.families[i] for i in means}):
    part = {i: s for i, s in means.items() if data.families[i] == family}
    families[family] = _interval(part, data)
  return {
    "key": predictor.key,
    "label": predictor.label,
    **_interval(means, data),
    **_seeds(per_seed),
    "families": families,
  }


def differences(
  table: Sequence[Predictor], data: DataScores
) -> list[dict[str, Any]]:
  """Paired differences of PAIRS, where both sides answered a question.

  Runs with the same seed are paired; a side without seeds is paired with
  every seed of the other. A pair with nothing in common is left out.
  """
  by_key = {predictor.key: predictor for predictor in table}
  out = []
  for key, baseline_key in PAIRS:
    if key not in by_key or baseline_key not in by_key:
      continue
    per_seed = []
    for a, b in _paired(by_key[key].scores, by_key[baseline_key].scores):
      shared = a.keys() & b.keys()
      if shared:
        per_seed.append({i: a[i] - b[i] for i in sorted(shared)})
    if not per_seed:
      continue
    means = _mean_over_seeds(dict(enumerate(per_seed)))
    groups = [data.images[i] for i in means]
    interval = compare.mean_interval(list(means.values()), groups)
    values = [_mean(scores.values()) for scores in per_seed]
    out.append(
      {
        "key": key,
        "baseline": baseline_key,
        "label": by_key[key].label,
        "baseline_label": by_key[baseline_key].label,
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.num_values,
        "images": interval.num_groups,
        **_seeds(values),
        "verdict": compare.verdict(interval, compare.over_seeds(values)),
      }
    )
  return out


def _scores(predictions: Iterable[Prediction], field: str) -> dict[str, float]:
  marks = {p.example_id: getattr(p, field) for p in predictions}
  return {i: float(mark) for i, mark in marks.items() if mark is not None}


def _paired(a, b):
  for seed in sorted(a.keys() | b.keys(), key=str):
    left, right = a.get(seed, a.get(None)), b.get(seed, b.get(None))
    if left is not None and right is not None:
      yield left, right


def _mean_over_seeds(scores):
  """Per question, over the questions that every seed answered."""
  shared = set.intersection(*(set(s) for s in scores.values()))
  return {
    i: sum(s[i] for s in scores.values()) / len(scores) for i in sorted(shared)
  }


def _interval(means, data):
  if not means:
    return {"n": 0, "images": 0, "accuracy": None, "low": None, "high": None}
  groups = [data.images[i] for i in means]
  interval = compare.mean_interval(list(means.values()), groups)
  return {
    "n": interval.num_values,
    "images": interval.num_groups,
    "accuracy": interval.mean,
    "low": interval.low,
    "high": interval.high,
  }


def _seeds(values):
  seeds = compare.over_seeds(values)
  return {
    "num_seeds": seeds.num_seeds,
    "standard_error": seeds.standard_error,
    "per_seed": list(values),
  }


def _mean(values):
  values = list(values)
  return sum(values) / len(values)
