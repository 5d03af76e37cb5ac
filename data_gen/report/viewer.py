"""Writes the report folder: two pages, their style, examples and pictures.

Examples reach the page as data (examples.js sets `window.EXAMPLES`), and the
page puts them in place as text nodes; nothing from a row becomes markup. It
all opens from file://, where a page may load scripts but not fetch files.
"""

import collections
import hashlib
import importlib.resources
import json
import pathlib
import re
import shutil
import string
from collections.abc import Iterable, Sequence
from typing import Any

from data_gen.records import Run
from data_gen.report import overview, read
from data_gen.report.markup import html
from data_gen.trace.events import Event
from vpd_jax.evaluators import scoring

MAX_STEPS = 60
_SPLIT_GROUPS = re.compile(r"\s*;\s*")


def write(
  out: pathlib.Path,
  data_dirs: Sequence[pathlib.Path],
  runs: Sequence[read.TrainingRun],
  summary: dict[str, Any],
  *,
  num_examples: int = 200,
) -> pathlib.Path:
  """Writes the report and returns the path of its first page.

  Args:
    out: folder to write; files of an earlier report there are replaced.
    data_dirs: as for `summary.build`.
    runs: as for `summary.build`.
    summary: its result.
    num_examples: most examples to show over all data folders.
  """
  out.mkdir(parents=True, exist_ok=True)
  pictures = out / "images"
  if pictures.exists():
    shutil.rmtree(pictures)
  pictures.mkdir()
  # The first folder takes what the others, often small, leave of the limit.
  examples: list[dict[str, Any]] = []
  share = num_examples // len(data_dirs)
  for i in reversed(range(len(data_dirs))):
    limit = share if i else num_examples - len(examples)
    name = summary["data"][i]["name"]
    examples = [
      *_examples(data_dirs[i], name, () if i else runs, limit, pictures),
      *examples,
    ]
  _write_json(out / "summary.json", summary)
  payload = json.dumps(examples, ensure_ascii=True, separators=(",", ":"))
  (out / "examples.js").write_text(f"window.EXAMPLES = {payload};\n")
  body = overview.body(summary, runs, num_examples=len(examples))
  page = _page("index.html").substitute(body="\n".join(map(html, body)))
  (out / "index.html").write_text(page, encoding="utf-8")
  for name in ("examples.html", "style.css", "viewer.js"):
    (out / name).write_text(_page_text(name), encoding="utf-8")
  return out / "index.html"


def _examples(folder, data_name, runs, limit, pictures):
  """Examples spread evenly over split, family and outcome, in file order."""
  shown = _first_seeds(runs)
  strata: dict[tuple, list[tuple[str, str]]] = collections.defaultdict(list)
  for split in read.splits(folder):
    light = ("choices", "rationales")
    for bundle in read.bundles(folder, split, stages=light):
      outcomes = _outcomes(bundle, shown, split)
      key = (split, bundle.question.family, *outcomes)
      if len(strata[key]) < limit:
        strata[key].append((split, bundle.question.question_id))
  chosen = collections.defaultdict(set)
  for split, question_id in _round_robin(strata.values(), limit):
    chosen[split].add(question_id)
  examples = []
  for split, wanted in chosen.items():
    found = list(read.bundles(folder, split, wanted))
    image_ids = {bundle.question.image_id for bundle in found}
    encoded = read.images(folder, split, image_ids)
    for bundle in found:
      picture = encoded[bundle.question.image_id]
      examples.append(
        {
          "data": data_name,
          "image": f"images/{_store(picture, pictures)}",
          **example(bundle, shown, split),
        }
      )
  return examples


def example(
  bundle: read.Bundle, runs: Sequence[read.TrainingRun], split: str
) -> dict[str, Any]:
  """One question with all that happened to it, as the page wants it."""
  question, choice, rationale = (
    bundle.question,
    bundle.choice,
    bundle.rationale,
  )
  by_index = {run.index: run for run in bundle.runs}
  programs = []
  for i, program in enumerate(bundle.programs):
    run = by_index.get(program.index)
    decisions = choice.decisions if choice else ()
    programs.append(
      {
        "text": program.text,
        "decision": decisions[i] if i < len(decisions) else "",
        **(_run(run) if run else {}),
      }
    )
  return {
    "id": question.question_id,
    "split": split,
    "family": question.family,
    "question": question.question,
    "answers": question.answers,
    "choices": question.choices,
    "regions": question.regions,
    "outcomes": _outcomes(bundle, runs, split),
    "programs": programs,
    "kept": choice.kept if choice else None,
    "reason": (choice.reason if choice else "")
    or (rationale.reason if rationale else ""),
    "rationale": _groups(rationale.text) if rationale else [],
    "reference": question.reference_rationale,
    "students": [
      _student(run.arm, run.predictions[split][question.question_id])
      for run in runs
      if question.question_id in run.predictions.get(split, {})
    ],
  }


def _run(run: Run) -> dict[str, Any]:
  steps = [
    {"tool": e.tool, "line": e.line, "text": e.text, "boxes": _boxes(e)}
    for e in run.trace[:MAX_STEPS]
  ]
  return {
    "status": run.status,
    "error": run.error_class,
    "message": run.message,
    "answer": run.answer,
    "steps": steps,
    "num_steps": len(run.trace),
  }


def _boxes(event: Event) -> list[Any]:
  """The boxes that a step is about: what it found, printed or looked at."""
  if isinstance(event.value, list):
    return [
      box
      for box in event.value
      if isinstance(box, list | tuple) and len(box) == 4
    ]
  named = scoring.boxes_in(str(event.value or ""))
  return named or ([event.box] if event.box else [])


def _groups(text: str) -> list[dict[str, Any]]:
  """A rationale's groups with the boxes that each names."""
  parts = _SPLIT_GROUPS.split(text.strip()) if text.strip() else []
  return [{"text": part, "boxes": scoring.boxes_in(part)} for part in parts]


def _student(arm: str, prediction: read.Prediction) -> dict[str, Any]:
  return {
    "arm": arm,
    "direct": prediction.direct,
    "is_right": prediction.direct_is_correct,
    "rationale": _groups(prediction.rationale or ""),
    "rationale_is_right": prediction.rationale_is_correct,
  }


def _first_seeds(runs):
  """The run with the lowest seed of every arm, twin and vpd first."""
  first = {}
  for run in runs:
    first.setdefault(run.arm, run)
  order = ["twin", "twin_equal_compute", "vpd"]
  return sorted(
    first.values(),
    key=lambda r: order.index(r.arm) if r.arm in order else len(order),
  )


def _outcomes(bundle, runs, split):
  """Tags to filter by: of the students, of the rationale."""
  marks = {
    run.arm: prediction.direct_is_correct
    for run in runs
    if (
      prediction := run.predictions.get(split, {}).get(
        bundle.question.question_id
      )
    )
  }
  tags = []
  if "vpd" in marks and "twin" in marks:
    tags.append(
      {
        (True, True): "both_right",
        (True, False): "vpd_only",
        (False, True): "twin_only",
        (False, False): "both_wrong",
      }[marks["vpd"], marks["twin"]]
    )
  if bundle.rationale is not None:
    has_text = bool(bundle.rationale.text)
    tags.append("rationale_kept" if has_text else "no_rationale")
  return tags


def _round_robin(
  groups: Iterable[Sequence[Any]], limit: int
) -> list[tuple[str, str]]:
  """One of each group, then a second of each, up to `limit`."""
  groups = list(groups)
  longest = max(map(len, groups), default=0)
  turns = [g[i] for i in range(longest) for g in groups if i < len(g)]
  return turns[:limit]


def _store(picture: bytes, folder: pathlib.Path) -> str:
  """Writes a picture under the hash of its bytes; its file name."""
  ending = "png" if picture.startswith(b"\x89PNG") else "jpg"
  name = f"{hashlib.sha256(picture).hexdigest()[:16]}.{ending}"
  (folder / name).write_bytes(picture)
  return name


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _page_text(name):
  pages = importlib.resources.files("data_gen.report") / "pages"
  return (pages / name).read_text(encoding="utf-8")


def _page(name):
  return string.Template(_page_text(name))
