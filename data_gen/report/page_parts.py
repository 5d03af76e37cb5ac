"""Parts that the sections of the report's first page share."""

import xml.etree.ElementTree as ET

from data_gen.report.markup import Child, element


def section(
  title: str, *children: Child, note: str | None = None, id_: str | None = None
) -> ET.Element:
  """A section with a heading and, if given, a line on how to read it."""
  return element(
    "section",
    element("h2", title),
    element("p", note, class_="note") if note else None,
    *children,
    id=id_,
  )


def scroll(label: str, table: ET.Element) -> ET.Element:
  """A table that scrolls sideways where it is too wide for the page."""
  return element(
    "div",
    table,
    class_="scroll",
    tabindex="0",
    role="region",
    aria_label=label,
  )
