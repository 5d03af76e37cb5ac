"""Reads a data_gen workdir and a folder of training runs for the report.

Rows stream: a split of a million questions is never held in memory. Stages
that have not run are absent, not an error; stages that have run must agree
on the questions and their order.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from data_gen.records import (
  Choice,
  Program,
  Question,
  Rationale,
  Run,
  from_json,
)
from vpd_jax.input import tfrecord

STAGES = ("programs", "runs", "choices", "rationales")

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}\.jsonl$")
_ARM = re.compile(r"(?P<arm>.+)-s(?P<seed>\d+)$")
_PREDICTIONS = re.compile(r"predictions-(?P<split>.+)\.jsonl$")


@dataclasses.dataclass(frozen=True)
class Bundle:
  """All that is known about one question; empty where a stage has not run.

  Attributes:
    question: without its image's bytes.
    programs, runs: k of each, in the order of their indices.
    choice, rationale: None where the stage has not run.
  """

  question: Question
  programs: tuple[Program, ...]
  runs: tuple[Run, ...]
  choice: Choice | None
  rationale: Rationale | None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One student's outputs for one question; a line of predictions-*.jsonl.

  Attributes:
    example_id: the question's id.
    image_id, family, question, answers: as in the record.
    direct: text decoded after the label prompt.
    direct_is_correct: whether it agrees with an accepted answer.
    rationale: text decoded after the rationale prompt; None if not asked.
    rationale_answer: the answer at its end; None if there is none.
    rationale_is_correct: of that answer; None if the prompt was not asked.
  """

  example_id: str
  image_id: str
  family: str
  question: str
  answers: tuple[str, ...]
  direct: str
  direct_is_correct: bool
  rationale: str | None = None
  rationale_answer: str | None = None
  rationale_is_correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class TrainingRun:
  """One folder of RUNS: an arm trained with one seed.

  Attributes:
    name: of the folder.
    arm: what was varied, such as "twin" or "vpd".
    seed: None if neither the folder's name nor evaluation.json says it.
    evaluation: evaluation.json, {} if there is none yet.
    curve: lines of metrics.jsonl.
    predictions: split -> example_id -> Prediction.
  """

  name: str
  arm: str
  seed: int | None
  evaluation: dict[str, Any]
  curve: list[dict[str, Any]]
  predictions: dict[str, dict[str, Prediction]]


def splits(workdir: pathlib.Path) -> list[str]:
  """Names of the splits with questions: train, validation, then the others.

  Raises:
    FileNotFoundError: if the folder has no questions.
  """
  found = set()
  for path in workdir.glob("questions/*.jsonl"):
    if match := _SHARD.fullmatch(path.name):
      found.add(match["split"])
  if not found:
    raise FileNotFoundError(
      f"{workdir} has no questions/*.jsonl. Name the --workdir of a finished"
      " `python -m data_gen.run`."
    )
  first = ("train", "validation")
  return [s for s in first if s in found] + sorted(found.difference(first))


def bundles(
  workdir: pathlib.Path,
  split: str,
  only: Collection[str] | None = None,
  *,
  stages: Sequence[str] = STAGES,
  with_traces: bool = True,
) -> Iterator[Bundle]:
  """Every question of a split with what each stage made of it, in order.

  Args:
    workdir: of data_gen.
    split: one of `splits`.
    only: ids of the questions to yield; None: all.
    stages: those to read beyond the questions.
    with_traces: False leaves the traces out, which saves most of the time.

  Raises:
    ValueError: if a line cannot be read, or a stage's rows are for other
      questions than the questions stage's; names the file and line.
  """
  per_question = {
    stage: itertools.groupby(
      _lines(workdir, stage, split), key=lambda line: line[1]["question_id"]
    )
    for stage in stages
    if any(workdir.glob(f"{stage}/{split}-*.jsonl"))
  }
  for where, value in _lines(workdir, "questions", split):
    question_id = value["question_id"]
    rows: dict[str, list[Any]] = {}
    for stage, groups in per_question.items():
      found_id, group = next(groups, (None, ()))
      rows[stage] = [row for _, row in group]
      if found_id != question_id:
        raise ValueError(
          f"{workdir / stage} is out of step with {where}: expected rows for"
          f" question {question_id!r}, found {found_id!r}. Remove the"
          f" {stage} folder and run data_gen again; it resumes there."
        )
    if only is not None and question_id not in only:
      continue
    if not with_traces:
      rows["runs"] = [{**row, "trace": []} for row in rows.get("runs", ())]
    yield Bundle(
      question=_row(Question, value, where),
      programs=_rows(Program, rows.get("programs", ()), where),
      runs=_rows(Run, rows.get("runs", ()), where),
      choice=next(iter(_rows(Choice, rows.get("choices", ()), where)), None),
      rationale=next(
        iter(_rows(Rationale, rows.get("rationales", ()), where)), None
      ),
    )


def images(
  workdir: pathlib.Path, split: str, wanted: Collection[str]
) -> dict[str, bytes]:
  """image_id -> encoded bytes of the wanted images.

  Raises:
    ValueError: if a file is damaged, or an image is not there.
  """
  found = {}
  for path in sorted(workdir.glob(f"questions/{split}-*.images.tfrecord")):
    with path.open("rb") as file:
      for payload in tfrecord.read_frames(file, str(path)):
        features = tfrecord.decode_example(payload)
        image_id = features["image_id"][0].decode()
        if image_id in wanted:
          found[image_id] = features["image"][0]
  missing = sorted(set(wanted) - set(found))
  if missing:
    raise ValueError(
      f"{workdir / 'questions'} holds no image {missing[0]!r} for split"
      f" {split!r} ({len(missing)} missing). Generate the questions again."
    )
  return found


def json_file(path: pathlib.Path) -> dict[str, Any] | None:
  """A file's JSON object; None if there is no file; ValueError if damaged."""
  if not path.exists():
    return None
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as e:
    raise ValueError(f"{path} is not JSON: {e}") from e
  if not isinstance(value, dict):
    raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
  return value


def training_runs(folder: pathlib.Path) -> list[TrainingRun]:
  """The training runs in a folder, by arm and seed.

  A sub-folder is one if it has evaluation.json, metrics.jsonl or predictions.

  Raises:
    FileNotFoundError: if the folder does not exist.
    ValueError: if a file in it cannot be read.
  """
  if not folder.is_dir():
    raise FileNotFoundError(
      f"{folder} is no folder. Name the folder that holds one sub-folder per"
      " training run, or leave --runs out to report on the data alone."
    )
  runs = []
  for path in sorted(p for p in folder.iterdir() if p.is_dir()):
    evaluation = json_file(path / "evaluation.json")
    curve = [v for _, v in _json_lines(path / "metrics.jsonl")]
    predictions = {}
    for file in sorted(path.glob("predictions-*.jsonl")):
      match = _PREDICTIONS.fullmatch(file.name)
      assert match is not None
      rows = [_row(Prediction, v, where) for where, v in _json_lines(file)]
      predictions[match["split"]] = {row.example_id: row for row in rows}
    if evaluation is None and not curve and not predictions:
      continue
    named = _ARM.fullmatch(path.name)
    seed = int(named["seed"]) if named else (evaluation or {}).get("seed")
    arm = named["arm"] if named else path.name
    runs.append(
      TrainingRun(path.name, arm, seed, evaluation or {}, curve, predictions)
    )
  return sorted(runs, key=lambda run: (run.arm, run.seed or 0))


def _lines(workdir, stage, split):
  for path in sorted(workdir.glob(f"{stage}/{split}-*.jsonl")):
    match = _SHARD.fullmatch(path.name)
    if match and match["split"] == split:
      yield from _json_lines(path)


def _json_lines(path):
  """Yields (file:line, object) of a file; nothing if there is no file."""
  if not path.exists():
    return
  with path.open(encoding="utf-8") as file:
    for number, line in enumerate(file, start=1):
      where = f"{path}:{number}"
      try:
        value = json.loads(line)
      except json.JSONDecodeError as e:
        raise ValueError(f"{where}: not a line of JSON: {e}") from e
      if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r}")
      yield where, value


def _rows(cls, values, where):
  return tuple(_row(cls, value, where) for value in values)


def _row(cls, value, where):
  try:
    return from_json(cls, json.dumps(value))
  except ValueError as e:
    raise ValueError(f"near {where}: {e}") from e
