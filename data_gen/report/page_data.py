"""Sections on the data: questions left, programs' outcomes, tools."""

import collections
import xml.etree.ElementTree as ET
from typing import Any

from data_gen.report import charts
from data_gen.report.markup import element
from data_gen.report.page_parts import scroll, section

_STEPS = {
  "asked": "Questions",
  "ran": "A program ran",
  "kept": "A program was kept",
  "rationale": "Has a rationale",
}
_REASONS = {
  "kept": "Right, kept",
  "right": "Right, another kept",
  "wrong_answer": "Wrong answer",
  "no_tool_call": "Right, but used no tool",
  "not_used": "Not used",
}
_TOP_REASONS = 10


def data_section(data: dict[str, Any], is_one_of_several: bool) -> ET.Element:
  """Questions left at each step, success against k, programs' outcomes."""
  totals: collections.Counter = collections.Counter()
  lost: dict[str, collections.Counter] = collections.defaultdict(
    collections.Counter
  )
  decisions: collections.Counter = collections.Counter()
  series = {}
  for split, counts in data["splits"].items():
    for step in counts["funnel"]:
      totals[step["step"]] += step["count"]
      lost[step["step"]].update(step["lost"])
    decisions.update(counts["decisions"])
    if counts["success_at_k"]:
      series[split] = list(enumerate(counts["success_at_k"], start=1))
  whole = totals["asked"]
  funnel = charts.bars(
    [(_STEPS[step], count, "s0") for step, count in totals.items()],
    whole=whole,
  )
  reasons = [
    f"{count:,} lost at “{_STEPS[step].lower()}”: {reason}"
    for step, counter in lost.items()
    for reason, count in counter.most_common()
  ]
  success = None
  if series:
    success = element(
      "div",
      element("h3", "A right program among the first k"),
      charts.lines(
        series,
        title="Share of questions with a right program among the first k",
        x_label="k programs per question",
        y_top=1.0,
        as_percent=True,
        classes={split: f"s{i % 10}" for i, split in enumerate(series)},
      ),
      class_="panel",
    )
  outcome = None
  if decisions:
    shown = decisions.most_common(_TOP_REASONS)
    rest = sum(decisions.values()) - sum(count for _, count in shown)
    rows = [
      (
        _REASONS.get(r, f"Fault: {r.replace('_', ' ')}"),
        n,
        _decision_color(r),
      )
      for r, n in shown
    ]
    if rest:
      rows.append(("Others", rest, "s4"))
    outcome = element(
      "div",
      element("h3", "What came of each program"),
      charts.bars(rows, whole=sum(decisions.values())),
      class_="panel",
    )
  splits = ", ".join(
    f"{split} {counts['questions']:,}"
    for split, counts in data["splits"].items()
  )
  return section(
    f"From questions to rationales: {data['name']}"
    if is_one_of_several
    else "From questions to rationales",
    element(
      "div",
      element(
        "div",
        element("h3", "Questions left at each step"),
        funnel,
        element("ul", *[element("li", r) for r in reasons], class_="reasons")
        if reasons
        else None,
        class_="panel",
      ),
      success,
      outcome,
      class_="panels",
    ),
    note=f"Questions by split: {splits}.",
    id_=None if is_one_of_several else "yields",
  )


def _decision_color(reason):
  known = {"kept": "s0", "right": "s3", "wrong_answer": "s2", "not_used": "s4"}
  return known.get(reason, "s1")


def tools_section(data: dict[str, Any]) -> ET.Element | None:
  """The tools' measured accuracy, where the data folder has it."""
  if not data["tool_accuracy"]:
    return None
  rows = [
    element(
      "tr",
      element("th", " · ".join(names).replace("_", " "), scope="row"),
      element("td", f"{value:.3f}" if isinstance(value, float) else str(value)),
    )
    for names, value in _leaves(data["tool_accuracy"])
  ]
  return section(
    f"Measured accuracy of the tools: {data['name']}",
    scroll(
      "Tool accuracy",
      element("table", element("tbody", *rows), class_="narrow"),
    ),
    note="Against the source's own record of each picture, which no tool sees.",
  )


def _leaves(value, names=()):
  if isinstance(value, dict):
    for name, inner in value.items():
      yield from _leaves(inner, (*names, str(name)))
  else:
    yield names, value
