"""The report's first page: its lead, its sections in order, its limits."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from data_gen.report import page_data, page_results
from data_gen.report.markup import element
from data_gen.report.page_parts import section
from data_gen.report.read import TrainingRun


def body(
  summary: dict[str, Any],
  runs: Sequence[TrainingRun],
  *,
  num_examples: int,
) -> list[ET.Element]:
  """The page's sections as elements, in order."""
  sections: list[ET.Element | None] = [_lead(summary, num_examples)]
  first = summary["data"][0]
  sections.append(page_results.accuracy_section(first))
  sections.append(page_results.differences_section(first))
  sections.append(page_results.families_section(first))
  sections.append(page_results.rationales_section(first))
  sections += [
    page_data.data_section(data, len(summary["data"]) > 1)
    for data in summary["data"]
  ]
  for data in summary["data"][1:]:
    sections.append(page_results.accuracy_section(data, of=data["name"]))
  sections.append(page_results.curves_section(runs))
  sections += [page_data.tools_section(data) for data in summary["data"]]
  sections.append(page_results.speed_section(first))
  sections.append(_limits_section(summary))
  return [section for section in sections if section is not None]


def _lead(summary, num_examples):
  first = summary["data"][0]
  questions = sum(
    s["questions"] for d in summary["data"] for s in d["splits"].values()
  )
  programs = sum(
    s["programs"] for d in summary["data"] for s in d["splits"].values()
  )
  kept = sum(
    s["funnel"][-1]["count"]
    for d in summary["data"]
    for s in d["splits"].values()
    if s["funnel"][-1]["step"] == "rationale"
  )
  facts = [
    (f"{questions:,}", "questions"),
    (f"{programs:,}", "programs run"),
    (f"{kept:,}", "rationales kept"),
    (f"{len(summary['runs'])}", "students trained"),
  ]
  return element(
    "header",
    element("p", f"vpd_jax report · {first['name']}", class_="eyebrow"),
    element("h1", summary["headline"][0]),
    element("p", " ".join(summary["headline"][1:]), class_="basis"),
    element(
      "dl",
      *[
        element("div", element("dd", value), element("dt", name))
        for value, name in facts
      ],
      class_="facts",
    ),
    element(
      "p",
      element(
        "a",
        f"Browse {num_examples} examples →",
        href="examples.html",
        class_="button",
      ),
      element("a", "summary.json", href="summary.json", class_="quiet"),
    )
    if num_examples
    else None,
    class_="lead",
  )


def _limits_section(summary):
  seeds = [
    d["num_seeds"]
    for data in summary["data"]
    for pairs in data["differences"].values()
    for d in pairs
  ]
  writers = {
    writer
    for data in summary["data"]
    for counts in data["splits"].values()
    for writer in counts["writers"]
  }
  names = {data["name"] for data in summary["data"]}
  points = [
    "Intervals resample test images. They say how far another draw of test"
    " questions would move a number, not another base model or other data.",
  ]
  if seeds:
    points.append(
      "Each student was trained with one seed; another seed may change the"
      " differences by more than the intervals show."
      if max(seeds) == 1
      else "Seeds vary the training order and what is drawn, not the base that"
      " all students start from, unless an arm says so."
    )
    points.append(
      "Twin and student share base, data, steps and seed. The student also"
      " reads rationales, which takes more compute per step: the"
      " equal-compute twin is the comparison that allows for it."
    )
  if "grammar" in writers:
    points.append(
      "Programs come from a stochastic grammar that stands in for an LLM. Its"
      " mistakes are drawn at set rates; an LLM's are not independent."
    )
  if "templates" in writers:
    points.append(
      "Programs for photographs come from templates that stand in for an LLM,"
      " and no student is trained on them: their yields are all that is shown."
    )
  if any(name.startswith("world") for name in names):
    points.append(
      "The world is drawn by a program. Nothing here shows what rationales do"
      " on photographs, for larger models or in other families of questions."
    )
    points.append(
      "test_phrase holds out color-kind phrases from questions only: the base"
      " saw them while it learnt to find things. test_relation holds out"
      " relations per family, not relations altogether."
    )
  points.append(
    "“Any program right” needs the label to choose and is no method. A right"
    " answer can come from a wrong program: see the share of rationales that"
    " equal the true one."
  )
  return section(
    "What this does and does not show",
    element("ul", *[element("li", p) for p in points], class_="limits"),
    id_="limits",
  )
