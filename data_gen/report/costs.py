"""What training cost, and the time per question of programs and students."""

import pathlib
from collections.abc import Sequence
from typing import Any

from data_gen.report import accuracy, read

TIMED_SPLIT = "test_iid"
MODES = ("direct", "rationale")
_FIELDS = ("steps", "train_seconds", "train_flops")


def of_programs(
  folder: pathlib.Path, num_questions: int, num_programs: int
) -> dict[str, Any] | None:
  """Wall time of writing and running programs, over all splits.

  Args:
    folder: a workdir of data_gen.
    num_questions, num_programs: in all its splits.

  Returns:
    "seconds_per_question", "programs_per_question" and "num_workers"; None if
    the workdir has no timings of both stages, or took them from another.
  """
  timings = read.json_file(folder / "timings.json") or {}
  config = (read.json_file(folder / "config.json") or {}).get("config", {})
  if config.get("reuse") or not {"programs", "runs"} <= timings.keys():
    return None
  return {
    "seconds_per_question": (timings["programs"] + timings["runs"])
    / num_questions,
    "programs_per_question": num_programs / num_questions,
    "num_workers": config.get("num_workers", 1),
  }


def of_students(runs: Sequence[read.TrainingRun]) -> list[dict[str, Any]]:
  """One row per arm, in the order of the tables; means over its seeds.

  Returns:
    Rows with "arm", "label", "num_seeds", "cores" (of the evaluations), and
    where the evaluations have them "steps", "train_seconds", "train_flops"
    and "MODE_seconds_per_question" on TIMED_SPLIT, else None.
  """
  out = []
  for arm in accuracy.arms(runs):
    found = [run.evaluation for run in runs if run.arm == arm]
    found = [evaluation for evaluation in found if evaluation]
    if not found:
      continue
    timed = [e.get("splits", {}).get(TIMED_SPLIT, {}) for e in found]
    seconds = [f"{mode}_seconds_per_question" for mode in MODES]
    out.append(
      {
        "arm": arm,
        "label": accuracy.arm_label(arm),
        "num_seeds": len(found),
        "cores": sorted({e["cores"] for e in found if "cores" in e}),
        **{field: _mean(found, field) for field in _FIELDS},
        **{field: _mean(timed, field) for field in seconds},
      }
    )
  return out


def count_words(count: int, noun: str) -> str:
  """2, "core" -> "2 cores"."""
  return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _mean(rows, field):
  values = [row[field] for row in rows if row.get(field) is not None]
  return sum(values) / len(values) if values else None
