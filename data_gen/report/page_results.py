"""Sections on predictors: accuracy, differences, rationales, loss curves."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from data_gen.report import accuracy, charts
from data_gen.report.markup import element
from data_gen.report.page_parts import scroll, section
from data_gen.report.read import TrainingRun
from data_gen.report.summary import percent

# Colors: one per arm in the charts of training, muted for what is not trained.
_COLORS = {
  "vpd": "s0",
  "twin": "s1",
  "twin_equal_compute": "s3",
  "clean": "s5",
  "unfiltered": "s7",
  "k1": "s6",
  "pseudo": "s8",
  "pseudo_twin": "s2",
  "replay": "s9",
  "mismatched": "s4",
  accuracy.FIRST: "s2",
  accuracy.MAJORITY: "s2",
  accuracy.ANY: "s2",
  accuracy.QUESTION_ONLY: "s4",
}


def accuracy_section(
  data: dict[str, Any], of: str | None = None
) -> ET.Element | None:
  """One panel per split; `of` names the data if it is not the first."""
  panels = []
  for split, table in data["accuracy"].items():
    if not table:
      continue
    counts = sorted({row["n"] for row in table})
    rows = [
      element(
        "li",
        element("span", row["label"], class_="who"),
        charts.whisker(
          row["accuracy"],
          row["low"],
          row["high"],
          start=0,
          end=1,
          color=_color(row["key"]),
        ),
        element(
          "span",
          element("b", percent(row["accuracy"])),
          element("small", f" {percent(row['low'])}–{percent(row['high'])}"),
          class_="number",
        ),
      )
      for row in table
      if row["n"]
    ]
    panels.append(
      element(
        "div",
        element("h3", split),
        element(
          "p",
          f"{counts[-1]:,} questions about {table[0]['images']:,} images",
          class_="note",
        ),
        element("ul", *rows, charts.axis(("0", "50", "100%")), class_="forest"),
        class_="panel",
      )
    )
  if not panels:
    return None
  return section(
    f"Accuracy on {of}" if of else "Accuracy",
    element("div", *panels, class_="panels"),
    note="Percent right, with a 95% interval from resampling whole images."
    " Compare rows inside one split, not splits with each other.",
    id_=None if of else "accuracy",
  )


def differences_section(data: dict[str, Any]) -> ET.Element | None:
  """Paired differences, one panel per split."""
  panels = []
  for split, pairs in data["differences"].items():
    if not pairs:
      continue
    reach = max(
      0.01, *(1.1 * abs(d[end]) for d in pairs for end in ("low", "high"))
    )
    rows = [
      element(
        "li",
        element(
          "span",
          d["label"],
          element("small", f" minus {d['baseline_label']}"),
          class_="who",
        ),
        charts.whisker(
          d["difference"],
          d["low"],
          d["high"],
          start=-reach,
          end=reach,
          color=_color(d["key"]),
        ),
        element(
          "span",
          element("b", f"{100 * d['difference']:+.1f}"),
          element(
            "small",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            class_="interval",
          ),
          element("small", _seed_note(d), class_="verdict"),
          class_="number",
        ),
      )
      for d in pairs
    ]
    panels.append(
      element(
        "div",
        element("h3", split),
        element(
          "ul", *rows, charts.axis(_reach_labels(reach)), class_="forest"
        ),
        class_="panel",
      )
    )
  if not panels:
    return None
  return section(
    "Paired differences",
    element("div", *panels, class_="panels"),
    note="Points gained on the same questions; the vertical line is no"
    " difference. A sign is named only where the 95% interval over images"
    " leaves out 0 and, with several seeds, the t interval over seeds too.",
    id_="differences",
  )


def _reach_labels(reach):
  return (f"{-100 * reach:.0f}", "0", f"{100 * reach:+.0f} points")


def _seed_note(d):
  if d["standard_error"] is None:
    return d["verdict"]
  return (
    f"{d['verdict']} · ±{100 * d['standard_error']:.1f} over"
    f" {d['num_seeds']} seeds"
  )


def families_section(data: dict[str, Any]) -> ET.Element | None:
  """Accuracy by family, one table per split."""
  tables = []
  for split, table in data["accuracy"].items():
    families = sorted({f for row in table for f in row["families"]})
    if len(families) < 2:
      continue
    head = element(
      "tr",
      element("th", "", scope="col"),
      *[element("th", family, scope="col") for family in families],
      element("th", "all", scope="col"),
    )
    lines = [
      element(
        "tr",
        element("th", row["label"], scope="row"),
        *[_cell(row["families"].get(family)) for family in families],
        _cell(row),
      )
      for row in table
    ]
    tables.append(
      element(
        "details",
        element("summary", split),
        element("table", element("thead", head), element("tbody", *lines)),
        class_="scroll",
        open="" if not tables else None,
      )
    )
  if not tables:
    return None
  return section(
    "By family of question",
    *tables,
    id_="families",
    note="Percent right; below it half the interval's width.",
  )


def _cell(entry):
  if not entry or entry["accuracy"] is None:
    return element("td", "–")
  half = (entry["high"] - entry["low"]) / 2
  return element(
    "td",
    percent(entry["accuracy"]),
    element("small", f"±{100 * half:.1f}"),
    title=f"{entry['n']} questions",
  )


def rationales_section(data: dict[str, Any]) -> ET.Element | None:
  """Quality of rationales by split and writer."""
  columns = (
    ("rationales", "rationales"),
    ("boxes that hit an object", "box_hit_rate"),
    ("all boxes hit", "all_boxes_hit_rate"),
    ("equal to the true one", "exact_rate"),
    ("agrees with direct answer", "agrees_with_direct_rate"),
  )
  lines = [
    element(
      "tr",
      element("th", f"{split} · {row['name']}", scope="row"),
      *[
        element(
          "td", f"{row[key]:,}" if key == "rationales" else percent(row[key])
        )
        for _, key in columns
      ],
    )
    for split, rows in data["rationales"].items()
    for row in rows
  ]
  if not lines:
    return None
  head = element(
    "tr",
    element("th", "", scope="col"),
    *[element("th", title, scope="col") for title, _ in columns],
  )
  return section(
    "Rationales, judged by machine",
    scroll(
      "Quality of rationales",
      element("table", element("thead", head), element("tbody", *lines)),
    ),
    note="Percent. A box hits if it overlaps a real object with an"
    " intersection over union of at least 0.5. “programs” are the kept"
    " rationales made from programs.",
    id_="rationales",
  )


def _color(key):
  return _COLORS.get(key.removesuffix(accuracy.WITH_RATIONALE), "s6")


def curves_section(runs: Sequence[TrainingRun]) -> ET.Element | None:
  """Losses by step, one run of each arm."""
  first: dict[str, TrainingRun] = {}
  for run in runs:
    first.setdefault(run.arm, run)
  panels = []
  for title, key in (
    ("Loss on labels", "loss_label"),
    ("Loss on rationales", "loss_rationale"),
  ):
    series = {}
    for run in first.values():
      points = [
        (line["step"], line[key])
        for line in run.curve
        if isinstance(line.get(key), int | float)
      ]
      if any(y > 0 for _, y in points):
        series[run.arm] = points
    if series:
      panels.append(
        element(
          "div",
          element("h3", title),
          charts.lines(
            series,
            title=title,
            x_label="step",
            classes={arm: _color(arm) for arm in series},
          ),
          class_="panel",
        )
      )
  if not panels:
    return None
  return section(
    "Training",
    element("div", *panels, class_="panels"),
    note="Nats per token on training batches, averaged within each example;"
    " one run of each arm.",
    id_="training",
  )
