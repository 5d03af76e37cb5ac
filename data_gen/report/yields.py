"""How many questions and programs are left at each stage, and why not all.

    asked 8000 -> a program ran 7990 -> one kept 7500 -> rationale 7450
               lost: every program failed 10, no_right_program 490, ...

Counts add up: what is lost at a step is the difference of its two counts.
"""

import collections
import dataclasses
from typing import Any

from data_gen.report.read import Bundle
from vpd_jax.evaluators import scoring

ALL_FAILED = "every_program_failed"


@dataclasses.dataclass
class Tally:
  """Counts over the questions of one split; feed it with `add`."""

  questions: int = 0
  labelled: int = 0
  images: set[str] = dataclasses.field(default_factory=set)
  families: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  writers: set[str] = dataclasses.field(default_factory=set)
  programs: int = 0
  ran: int = 0
  kept: int = 0
  with_rationale: int = 0
  exact: int = 0
  with_reference: int = 0
  decisions: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  lost: dict[str, collections.Counter] = dataclasses.field(
    default_factory=lambda: {
      step: collections.Counter() for step in ("ran", "kept", "rationale")
    }
  )
  right_within: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  stages: set[str] = dataclasses.field(default_factory=set)

  def add(self, bundle: Bundle) -> None:
    """Counts one question with its programs, choice and rationale."""
    question = bundle.question
    self.questions += 1
    self.images.add(question.image_id)
    self.families[question.family] += 1
    self.labelled += bool(question.answers)
    self.programs += len(bundle.programs)
    self.writers.update(program.writer for program in bundle.programs)
    if bundle.runs:
      self.stages.add("runs")
      self._add_runs(bundle)
    if bundle.choice is not None:
      self.stages.add("choices")
      self._add_choice(bundle)
    if bundle.rationale is not None:
      self.stages.add("rationales")
      self._add_rationale(bundle)

  def _add_runs(self, bundle):
    if bundle.question.answers:
      right = first_right(bundle)
      for k in range(1, len(bundle.runs) + 1):
        self.right_within[k] += right is not None and right < k
    if any(run.status == "ok" for run in bundle.runs):
      self.ran += 1
    else:
      self.lost["ran"][ALL_FAILED] += 1

  def _add_choice(self, bundle):
    self.decisions.update(bundle.choice.decisions)
    if bundle.choice.kept is not None:
      self.kept += 1
    elif any(run.status == "ok" for run in bundle.runs):
      self.lost["kept"][bundle.choice.reason] += 1

  def _add_rationale(self, bundle):
    rationale, reference = bundle.rationale, bundle.question.reference_rationale
    if not rationale.text:
      if bundle.choice is None or bundle.choice.kept is not None:
        self.lost["rationale"][rationale.reason] += 1
      return
    self.with_rationale += 1
    if reference:
      self.with_reference += 1
      self.exact += rationale.text == reference


def first_right(bundle: Bundle) -> int | None:
  """Index of the first program whose answer agrees with the question's."""
  for run in bundle.runs:
    if is_right(run, bundle.question.answers):
      return run.index
  return None


def is_right(run: Any, answers: tuple[str, ...]) -> bool:
  """Whether a run ended well with an accepted answer."""
  return run.status == "ok" and scoring.exact_match(run.answer or "", answers)


def to_dict(tally: Tally) -> dict[str, Any]:
  """The tally as plain values for summary.json.

  Returns:
    "questions", "images", "labelled", "programs", "families", "writers";
    "funnel": steps with "step", "count" and "lost" (reason -> questions);
    "decisions": what came of each program -> programs; "success_at_k": share
    of labelled questions with a right program among the first k, k = 1, 2,
    ...; "rationales_equal_to_reference": kept rationales that are word for
    word the source's own, of those that have one.
  """
  funnel = [{"step": "asked", "count": tally.questions, "lost": {}}]
  for step, stage, count in (
    ("ran", "runs", tally.ran),
    ("kept", "choices", tally.kept),
    ("rationale", "rationales", tally.with_rationale),
  ):
    if stage in tally.stages:
      lost = dict(tally.lost[step].most_common())
      funnel.append({"step": step, "count": count, "lost": lost})
  return {
    "questions": tally.questions,
    "images": len(tally.images),
    "labelled": tally.labelled,
    "programs": tally.programs,
    "families": dict(sorted(tally.families.items())),
    "writers": sorted(tally.writers),
    "funnel": funnel,
    "decisions": dict(tally.decisions.most_common()),
    "success_at_k": [
      tally.right_within[k] / tally.labelled for k in sorted(tally.right_within)
    ],
    "rationales_equal_to_reference": {
      "count": tally.exact,
      "of": tally.with_reference,
    },
  }
