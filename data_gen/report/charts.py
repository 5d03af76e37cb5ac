"""Charts of the report as inline SVG and HTML, drawn without a library.

Colors are CSS classes (`s0`, `s1`, ...), so that a page's light and dark
schemes both apply. Every chart says its numbers in text too.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from data_gen.report.markup import element

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 12, 34
_MAX_POINTS = 120

Point = tuple[float, float]


def lines(
  series: Mapping[str, Sequence[Point]],
  *,
  title: str,
  x_label: str,
  y_top: float | None = None,
  as_percent: bool = False,
  classes: Mapping[str, str],
) -> ET.Element:
  """A line chart with a legend.

  Args:
    series: name -> points (x, y) in order of x; None-free.
    title: what it shows, for readers who do not see it.
    x_label: under the axis.
    y_top: end of the y axis, which starts at 0; None: from the data.
    as_percent: whether y is a share: labelled in %, its points marked, its
      last value in the legend.
    classes: name -> color class.
  """
  thinned = {name: _thin(points) for name, points in series.items() if points}
  every = [point for points in thinned.values() for point in points]
  x_low, x_high = min(p[0] for p in every), max(p[0] for p in every)
  values = sorted({point[0] for point in every})
  x_ticks = values if len(values) <= 8 else _ticks(x_low, x_high)
  top = y_top if y_top is not None else max(p[1] for p in every)
  y_ticks = _ticks(0, top)
  top = max(top, y_ticks[-1])

  def at(x, y):
    span = (x_high - x_low) or 1
    return (
      _LEFT + (x - x_low) / span * (_WIDTH - _LEFT - _RIGHT),
      _HEIGHT - _BOTTOM - y / (top or 1) * (_HEIGHT - _TOP - _BOTTOM),
    )

  chart = element(
    "svg",
    element("title", title),
    viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    role="img",
    class_="chart",
  )
  for tick in y_ticks:
    _, y = at(x_low, tick)
    text = f"{100 * tick:.0f}%" if as_percent else f"{tick:g}"
    chart.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
    chart.append(_text(_LEFT - 6, y + 4, text, "end"))
  for tick in x_ticks:
    x, _ = at(tick, 0)
    chart.append(_text(x, _HEIGHT - _BOTTOM + 15, f"{tick:g}", "middle"))
  middle = (_LEFT + _WIDTH - _RIGHT) / 2
  chart.append(_text(middle, _HEIGHT - 4, x_label, "middle"))
  legend = element("ul", class_="legend")
  for name, points in thinned.items():
    color = classes[name]
    placed = [at(*p) for p in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    chart.append(element("polyline", points=path, class_=f"line {color}"))
    if as_percent:
      name = f"{name} {100 * points[-1][1]:.0f}%"
      for (x, y), (_, share) in zip(placed, points):
        dot = element("title", f"{100 * share:.1f}%")
        chart.append(
          element(
            "circle", dot, cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5", class_=color
          )
        )
    legend.append(element("li", element("i", class_=f"key {color}"), name))
  return element("div", chart, legend, class_="plot")


def bars(
  rows: Sequence[tuple[str, int, str]], *, whole: int, note: str = ""
) -> ET.Element:
  """Horizontal bars: (label, count, color class), each a share of `whole`."""
  items = [
    element(
      "li",
      element("span", label, class_="bar-label"),
      element(
        "span",
        element(
          "i", class_=f"fill {color}", style=f"width:{_share(count, whole)}%"
        ),
        class_="track",
        aria_hidden="true",
      ),
      element(
        "span",
        f"{count:,}",
        element("small", f" {_share(count, whole):.1f}%"),
        class_="bar-value",
      ),
    )
    for label, count, color in rows
  ]
  return element(
    "div",
    element("ul", *items, class_="bars"),
    element("p", note, class_="note") if note else None,
  )


def whisker(
  value: float, low: float, high: float, *, start: float, end: float, color: str
) -> ET.Element:
  """A dot with its interval on an axis from `start` to `end`, as HTML."""

  def place(x):
    return 100 * (min(max(x, start), end) - start) / (end - start)

  zero = None
  if start < 0 < end:
    zero = element("i", class_="zero", style=f"left:{place(0):.2f}%")
  return element(
    "span",
    zero,
    element(
      "i",
      class_=f"range {color}",
      style=f"left:{place(low):.2f}%;width:{place(high) - place(low):.2f}%",
    ),
    element("i", class_=f"dot {color}", style=f"left:{place(value):.2f}%"),
    class_="whisker",
    aria_hidden="true",
  )


def axis(labels: Sequence[str]) -> ET.Element:
  """A row of labels, spread evenly, that lies under a column of whiskers."""
  return element(
    "li",
    element("span", *[element("span", label) for label in labels]),
    class_="axis",
    aria_hidden="true",
  )


def _share(count, whole):
  return 100 * count / whole if whole else 0.0


def _thin(points):
  """At most _MAX_POINTS points, each the mean of its neighbours."""
  step = math.ceil(len(points) / _MAX_POINTS)
  groups = [points[i : i + step] for i in range(0, len(points), step)]
  return [
    (sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g))
    for g in groups
  ]


def _ticks(low, high):
  """About four round numbers from low to high."""
  span = (high - low) or 1
  size = 10 ** math.floor(math.log10(span / 4))
  step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= 5)
  first = math.ceil(low / step)
  last = math.floor(high / step + 1e-9)
  return [round(i * step, 10) for i in range(first, last + 1)] or [low]


def _line(x1, y1, x2, y2, class_):
  return element(
    "line", x1=x1, y1=f"{y1:.1f}", x2=x2, y2=f"{y2:.1f}", class_=class_
  )


def _text(x, y, text, anchor, class_="tick"):
  return element(
    "text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_
  )
