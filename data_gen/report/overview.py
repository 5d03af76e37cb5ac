"""The report's first page: its lead, its sections in order, its limits."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from data_gen.report import page_costs, page_data, page_results
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
  sections.append(
    page_costs.costs_section(summary["students_cost"], first["programs_cost"])
  )
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
  is_of_world = any(d["name"].startswith("world") for d in summary["data"])
  points = [
    "Intervals resample test images. They say how far another draw of test"
    " questions would move a number, not another base model or other data.",
  ]
  if seeds:
    points.append(_seeds_point(max(seeds), summary["runs"]))
    points.append(
      "Twin and student share base, data, steps and seed. The student also"
      " reads rationales, which takes more compute per step: the"
      " equal-compute twin is the comparison that allows for it."
    )
  if {"pseudo", "pseudo_twin"} & {run["arm"] for run in summary["runs"]}:
    points.append(
      "The label-free arms train on no label, but pick their checkpoint on"
      " labelled validation questions. The programs' mistakes are random here;"
      " one that all programs share would be learnt."
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
  if is_of_world:
    points.append(
      "This is one world, drawn by a program, with tools made for it. It says"
      " nothing about natural images, real vision tools or larger models."
    )
  if is_of_world and seeds:
    points.append(
      "Whatever the sign, this is no evidence that rationales help in general:"
      " the effect depends on the base, the families of questions, the form of"
      " the rationales and the number of labels. Those were settled on this"
      " world with scores of earlier students in view."
    )
    points.append(
      "test_phrase holds out color-kind phrases from questions only: the base"
      " saw them in “find” prompts while it learnt to find things."
      " test_relation holds out relations per family, not relations"
      " altogether."
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


def _seeds_point(num_seeds, runs):
  """What the seeds vary; a base is known by the hash of its weights."""
  if num_seeds == 1:
    return (
      "Each student was trained with one seed, from one base; another seed or"
      " base may change the differences by more than the intervals show."
    )
  bases = {run["init_sha256"] for run in runs if run.get("init_sha256")}
  if not bases:
    return "Seeds vary data order; these runs name no base they start from."
  if len(bases) > 1:
    return (
      "Each seed has its own base, which all its arms start from: the spread"
      " over seeds is of base and data order together."
    )
  return (
    "Seeds vary data order only, the base is one: the spread over seeds says"
    " nothing about another base."
  )
