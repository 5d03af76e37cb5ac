"""Builds HTML and SVG as a tree, so that no text can become markup.

page = element("p", "Accuracy ", element("b", "82.1%"), class_="lead")
html(page)  # <p class="lead">Accuracy <b>82.1%</b></p>
"""

import xml.etree.ElementTree as ET

Child = str | ET.Element | None


def element(tag: str, *children: Child, **attributes: object) -> ET.Element:
  """An element with children and attributes; None is left out of both.

  Args:
    tag: such as "p" or "svg".
    *children: text, elements or None, in order.
    **attributes: `class_` is written as class, `stroke_width` as
      stroke-width; others keep their names.
  """
  node = ET.Element(tag)
  for name, value in attributes.items():
    if value is not None:
      node.set(name.rstrip("_").replace("_", "-"), str(value))
  for child in children:
    if child is None:
      continue
    if isinstance(child, str):
      _append_text(node, child)
    else:
      node.append(child)
  return node


def html(node: ET.Element) -> str:
  """An element as HTML text, everything escaped."""
  return ET.tostring(node, encoding="unicode", method="html")


def _append_text(node, text):
  # XML 1.0 has no control characters; rows hold them escaped already.
  clean = "".join(c for c in text if c >= " " or c in "\n\t")
  if len(node):
    node[-1].tail = (node[-1].tail or "") + clean
  else:
    node.text = (node.text or "") + clean
