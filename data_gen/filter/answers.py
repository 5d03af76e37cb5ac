"""The stage `choices`: picks the program to learn from, by its answer."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from data_gen import records, shard_files
from vpd_jax import config_check
from vpd_jax.evaluators import scoring

KEPT = "kept"
RIGHT = "right"
WRONG_ANSWER = "wrong_answer"
NO_TOOL_CALL = "no_tool_call"
NOT_USED = "not_used"
NO_RIGHT_PROGRAM = "no_right_program"
NO_PROGRAM_RAN = "no_program_ran"


def choose(
  question: records.Question,
  programs: Sequence[records.Program],
  runs: Sequence[records.Run],
  *,
  mode: Literal["filtered", "unfiltered"] = "filtered",
  labels: Literal["gold", "none"] = "gold",
  max_programs: int | None = None,
) -> records.Choice:
  """Which of a question's programs to keep.

  With a label, a program is right if its answer is the label's and it looked
  at the image; the right one with the highest score is kept, of equal ones
  the first. If none is right the question stays, with its label and without
  a program. Without a label the first program that ran is kept, and its
  answer becomes the label.

  Args:
    question: that the programs answer.
    programs: its samples, by index.
    runs: what came of them, in the same order.
    mode: "unfiltered" keeps the first program that ran, whatever it answers.
    labels: "none" treats the questions of the split "train" as unlabelled;
      those of other splits keep their labels, to be scored by.
    max_programs: uses the first samples only; None uses all.

  Returns:
    The choice.

  Source: Hu et al., Visual Program Distillation (arXiv:2312.03052), section
  3.1. That a program must look at the image is ours.
  """
  if mode not in ("filtered", "unfiltered"):
    raise ValueError(
      f"config.filter.mode={mode!r} is neither 'filtered' nor 'unfiltered'."
    )
  if labels not in ("gold", "none"):
    raise ValueError(
      f"config.filter.labels={labels!r} is neither 'gold' nor 'none'."
    )
  is_unlabelled = labels == "none" and question.split == "train"
  answers = () if is_unlabelled else question.answers
  is_filtered = mode == "filtered" and bool(answers)
  used = range(len(runs))[:max_programs]
  decisions = [
    _decide(run, answers if is_filtered else None) if i in used else NOT_USED
    for i, run in enumerate(runs)
  ]
  right = [i for i in used if decisions[i] == RIGHT]
  kept = None
  if right:
    kept = (
      max(right, key=lambda i: (_score(programs[i]), -i))
      if (is_filtered)
      else right[0]
    )
    decisions[kept] = KEPT
  answer, source = "", ""
  if answers:
    answer, source = answers[0], records.ANSWER_FROM_LABEL
  elif kept is not None:
    answer, source = runs[kept].answer or "", records.ANSWER_FROM_PROGRAM
  reason = NO_RIGHT_PROGRAM if is_filtered else NO_PROGRAM_RAN
  return records.Choice(
    question_id=question.question_id,
    kept=None if kept is None else runs[kept].index,
    reason="" if kept is not None else reason,
    decisions=tuple(decisions),
    answer=answer,
    answer_source=source,
  )


def looks_at_image(run: records.Run) -> bool:
  """Whether some tool that sees pixels was called."""
  return any(event.box is not None for event in run.trace)


def _decide(run: records.Run, answers: Sequence[str] | None) -> str:
  """A program's decision before one is picked; no answers: all are right."""
  if run.status != "ok":
    return run.error_class
  if answers is None:
    return RIGHT
  if not scoring.exact_match(run.answer or "", answers):
    return WRONG_ANSWER
  return RIGHT if looks_at_image(run) else NO_TOOL_CALL


def _score(program: records.Program) -> float:
  return float("-inf") if program.score is None else program.score


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  section = config.get("filter", {})
  given = ("question", "programs", "runs")
  config_check.check_keywords(choose, section, "filter", given)
  choose(records.Question("", "", "", (), ""), (), (), **section)
  return {}


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._options = config.get("filter", {})

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Chooses for each question of the shard; see `data_gen.stage`."""
    name = f"{shard}.jsonl"
    out.open(name)
    questions = shard_files.read_rows(
      records.Question, folders["questions"] / name
    )
    programs = shard_files.read_groups(
      records.Program, folders["programs"] / name
    )
    runs = shard_files.read_groups(records.Run, folders["runs"] / name)
    for question, (_, own_programs), (_, own_runs) in zip(
      questions, programs, runs, strict=True
    ):
      choice = choose(question, own_programs, own_runs, **self._options)
      out.write_row(choice)
      out.tally(question.family, choice.reason)

  def close(self) -> None:
    """See `data_gen.stage`."""
