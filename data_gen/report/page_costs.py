"""Section on costs: training by arm, and time per question."""

import xml.etree.ElementTree as ET
from typing import Any

from data_gen.report.costs import TIMED_SPLIT, count_words
from data_gen.report.markup import element
from data_gen.report.page_parts import scroll, section


def costs_section(
  students: list[dict[str, Any]], programs: dict[str, Any] | None
) -> ET.Element | None:
  """Training cost and time per question, one row per arm."""
  lines = [
    (
      row["label"],
      _format(row["steps"], "{:,.0f}"),
      _format(row["train_seconds"], "{:,.0f} s"),
      _format(row["train_flops"], "{:.2e}"),
      _milliseconds(row["direct_seconds_per_question"]),
      _milliseconds(row["rationale_seconds_per_question"]),
    )
    for row in students
  ]
  if programs:
    per_question = f"{programs['programs_per_question']:.0f}"
    seconds = _milliseconds(programs["seconds_per_question"])
    name = f"Writing and running {per_question} programs"
    lines.append((name, "–", "–", "–", seconds, "–"))
  if not lines:
    return None
  head = (
    "",
    "steps",
    "training",
    "train FLOPs",
    "per question",
    "rationale, then answer",
  )
  return section(
    "Costs",
    scroll(
      "Costs of training and answering",
      element(
        "table",
        element(
          "thead",
          element("tr", *[element("th", name, scope="col") for name in head]),
        ),
        element(
          "tbody",
          *[
            element(
              "tr",
              element("th", name, scope="row"),
              *[element("td", cell) for cell in cells],
            )
            for name, *cells in lines
          ],
        ),
      ),
    ),
    note=_note(students, programs),
    id_="costs",
  )


def _note(students, programs):
  parts = []
  if students:
    cores = sorted({n for row in students for n in row["cores"]})
    where = " or ".join(str(n) for n in cores[:-1])
    where = f"{where} or " if where else ""
    on = f", on {where}{count_words(cores[-1], 'core')}" if cores else ""
    parts.append(
      "Means over an arm's seeds. Training time is the loop's wall time, other"
      " students beside it included;"
      f" FLOPs are the compiler's count. Students answer {TIMED_SPLIT} decoded"
      f" in batches of 200{on}, compiling not counted."
    )
  if programs:
    workers = count_words(programs["num_workers"], "worker")
    parts.append(
      "Programs: wall time of writing and running all programs of a question,"
      f" over all splits, on {workers}; this writer and these tools may be far"
      " cheaper than an LLM and vision models."
    )
  return " ".join(parts)


def _format(value, form):
  return "–" if value is None else form.format(value)


def _milliseconds(seconds):
  return "–" if seconds is None else f"{1000 * seconds:.2f} ms"
