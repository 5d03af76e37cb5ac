"""One table of results from data folders and training runs: summary.json.

`build` reads everything once; `text` prints it; `headline` says the main
comparison in words that are no stronger than its interval.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from data_gen.report import accuracy, costs, rationales, read, yields
from vpd_jax.evaluators import compare

_VERDICT_WORDS = {
  compare.AHEAD: "ahead of",
  compare.BEHIND: "behind",
  compare.UNCLEAR: "not distinguishable from",
}


def build(
  data_dirs: Sequence[pathlib.Path], runs: Sequence[read.TrainingRun]
) -> dict[str, Any]:
  """Reads the data and scores all predictors.

  Args:
    data_dirs: workdirs of data_gen. The training runs were evaluated on the
      first; the others add their yields and their programs' accuracy.
    runs: from `read.training_runs`; may be empty.

  Returns:
    {"headline", "data": one per folder, each with "name", "splits" (yields),
    "accuracy", "differences", "rationales" (by split), "tool_accuracy",
    "programs_cost"; "runs": what was trained; "students_cost": by arm}.

  Raises:
    ValueError, FileNotFoundError: as `read`.
  """
  data = [
    _data(folder, runs if i == 0 else ()) for i, folder in enumerate(data_dirs)
  ]
  names = [d["name"] for d in data]
  for d, folder in zip(data, data_dirs):
    if names.count(d["name"]) > 1:
      d["name"] = f"{d['name']} ({folder.name})"
  return {
    "headline": headline(data[0]),
    "data": data,
    "runs": [
      {"name": r.name, "arm": r.arm, "seed": r.seed, **_plain(r.evaluation)}
      for r in runs
    ],
    "students_cost": costs.of_students(runs),
  }


def _data(folder, runs):
  splits = read.splits(folder)
  config = read.json_file(folder / "config.json") or {}
  question_only = accuracy.QuestionOnly()
  out: dict[str, Any] = {
    "name": config.get("config", {}).get("name", folder.name),
    "splits": {},
    "accuracy": {},
    "differences": {},
    "rationales": {},
    "tool_accuracy": read.json_file(folder / "tool_accuracy.json"),
  }
  # Without students, all that no lookup was fitted on.
  answered = {split for run in runs for split in run.predictions}
  scored_alone = (
    () if answered else [s for s in splits if s != "train"] or splits
  )
  num_questions = num_programs = 0
  for split in splits:
    is_train = split == "train"
    tally = yields.Tally()
    scores = accuracy.DataScores(None if is_train else question_only)
    students = [r for r in runs if split in r.predictions]
    quality = {r.arm: rationales.Quality() for r in students}
    quality_of_programs = rationales.Quality()
    for bundle in read.bundles(folder, split, with_traces=False):
      tally.add(bundle)
      scores.add(bundle)
      if is_train:
        question_only.add(bundle)
      _judge(bundle, students, quality, quality_of_programs)
    out["splits"][split] = yields.to_dict(tally)
    num_questions += tally.questions
    num_programs += tally.programs
    if not students and split not in scored_alone:
      continue
    table = accuracy.predictors(scores, runs, split)
    out["accuracy"][split] = [accuracy.row(p, scores) for p in table]
    out["differences"][split] = accuracy.differences(table, scores)
    out["rationales"][split] = [
      {"name": name, **rationales.to_dict(judged)}
      for name, judged in (("programs", quality_of_programs), *quality.items())
      if judged.rationales
    ]
  out["programs_cost"] = costs.of_programs(folder, num_questions, num_programs)
  return out


def _judge(bundle, students, quality, quality_of_programs):
  if bundle.rationale is not None and bundle.rationale.text:
    quality_of_programs.add(bundle.question, bundle.rationale.text, None, None)
  split, question_id = bundle.question.split, bundle.question.question_id
  for run in students:
    prediction = run.predictions.get(split, {}).get(question_id)
    if prediction is not None and prediction.rationale is not None:
      quality[run.arm].add(
        bundle.question,
        prediction.rationale,
        prediction.rationale_answer,
        prediction.direct,
      )


def _plain(evaluation):
  kept = ("steps", "train_seconds", "train_flops", "init_sha256")
  return {key: evaluation[key] for key in kept if key in evaluation}


def headline(data: dict[str, Any]) -> list[str]:
  """The main comparison: one sentence that claims, then what it rests on.

  The split is the first test split that students answered. "Ahead" and
  "behind" are said only where `compare.verdict` says so.
  """
  for split in _test_splits(data):
    found = {
      (d["key"], d["baseline"]): d for d in data["differences"].get(split, ())
    }
    main = found.get(("vpd", "twin"))
    if main is None:
      continue
    sentences = [
      f"On {split}, the student trained with rationales is"
      f" {_VERDICT_WORDS[main['verdict']]} its twin trained on labels alone:"
      f" {_points(main['difference'])} points.",
      f"95% interval {_points(main['low'])} to {_points(main['high'])}, on"
      f" {main['n']:,} questions about {main['images']:,} images,"
      f" {_seed_words(main)}.",
    ]
    equal = found.get(("vpd", "twin_equal_compute"))
    if equal is not None:
      sentences.append(
        f"It is {_VERDICT_WORDS[equal['verdict']]} a twin trained for as much"
        f" compute: {_points(equal['difference'])}"
        f" ({_points(equal['low'])} to {_points(equal['high'])})."
      )
    reasoned = found.get(("vpd" + accuracy.WITH_RATIONALE, "twin"))
    if reasoned is not None:
      sentences.append(
        "Writing its rationale before the answer, it is"
        f" {_VERDICT_WORDS[reasoned['verdict']]} the twin:"
        f" {_points(reasoned['difference'])}"
        f" ({_points(reasoned['low'])} to {_points(reasoned['high'])})."
      )
    return sentences
  for split in _test_splits(data):
    for line in data["accuracy"].get(split, ()):
      if line["key"] == accuracy.MAJORITY:
        return [
          f"On {split}, the programs' majority answers"
          f" {percent(line['accuracy'])}% of {line['n']:,} questions.",
          "No pair of students has been compared.",
        ]
  return ["No predictor has been scored: the data has questions only."]


def _test_splits(data):
  tests = [s for s in data["splits"] if s.startswith("test")]
  return sorted(tests, key=lambda s: s != "test_iid") or list(data["splits"])


def percent(value: float | None) -> str:
  """0.8214 -> "82.1"; "-" for None."""
  return "-" if value is None else f"{100 * value:.1f}"


def _points(value):
  """A difference with its sign: 0.052 -> "+5.2"."""
  return f"{100 * value:+.1f}"


def _seed_words(difference):
  if difference["num_seeds"] == 1:
    return "one seed"
  error = f"{100 * difference['standard_error']:.1f}"
  return f"{difference['num_seeds']} seeds (standard error {error})"


def text(summary: dict[str, Any]) -> str:
  """The summary for a terminal: yields, accuracies, differences."""
  lines = []
  for data in summary["data"]:
    lines += ["", f"{data['name']}: questions left at each step"]
    for split, counts in data["splits"].items():
      steps = " -> ".join(f"{f['step']} {f['count']}" for f in counts["funnel"])
      lines.append(f"  {split:<16}{steps}")
    splits = [s for s, table in data["accuracy"].items() if table]
    if splits:
      lines += ["", f"{data['name']}: accuracy in % [95% interval]"]
      lines += _accuracy_lines(data["accuracy"], splits)
    for split in splits:
      lines += [
        f"  {split}: {_difference_line(d)}" for d in data["differences"][split]
      ]
    for split in splits:
      lines += [
        f"  {split}: {_rationale_line(r)}"
        for r in data["rationales"][split]
        if r["boxes"] or r["exact_rate"] is not None
      ]
    if data["programs_cost"]:
      lines.append(f"  {_programs_line(data['programs_cost'])}")
  if summary["students_cost"]:
    lines += ["", "costs, means over seeds"]
    lines += [f"  {_cost_line(row)}" for row in summary["students_cost"]]
  return "\n".join([*lines[1:], "", *summary["headline"]])


def _difference_line(d):
  return (
    f"{d['key']} - {d['baseline']}: {_points(d['difference'])}"
    f" [{_points(d['low'])}, {_points(d['high'])}], {_seed_words(d)}:"
    f" {d['verdict']}"
  )


def _rationale_line(r):
  return (
    f"{r['rationales']} rationales of {r['name']}: % of boxes that hit an"
    f" object {percent(r['box_hit_rate'])}, equal to the true one"
    f" {percent(r['exact_rate'])}, agree with the direct answer"
    f" {percent(r['agrees_with_direct_rate'])}"
  )


def _programs_line(cost):
  return (
    f"{cost['programs_per_question']:.0f} programs per question:"
    f" {1000 * cost['seconds_per_question']:.2f} ms to write and run, on"
    f" {costs.count_words(cost['num_workers'], 'worker')}"
  )


def _cost_line(row):
  parts = [
    form.format(row[key])
    for key, form in (
      ("steps", "{:.0f} steps"),
      ("train_seconds", "{:.0f} s"),
      ("train_flops", "{:.2e} FLOPs"),
    )
    if row[key] is not None
  ]
  for mode in costs.MODES:
    seconds = row[f"{mode}_seconds_per_question"]
    if seconds is not None:
      parts.append(f"{1000 * seconds:.2f} ms per question, {mode}")
  return f"{row['label']}: {', '.join(parts)}"


def _accuracy_lines(tables, splits):
  labels = {
    row["key"]: row["label"] for split in splits for row in tables[split]
  }
  width = max(map(len, labels.values())) + 2
  lines = ["  " + " " * width + "".join(f"{split:<20}" for split in splits)]
  for key, label in labels.items():
    cells = []
    for split in splits:
      row = next((r for r in tables[split] if r["key"] == key), None)
      if row is None:
        cells.append("-")
      else:
        low, high = percent(row["low"]), percent(row["high"])
        cells.append(f"{percent(row['accuracy'])} [{low}, {high}]")
    lines.append(f"  {label:<{width}}" + "".join(f"{c:<20}" for c in cells))
  return [line.rstrip() for line in lines]
