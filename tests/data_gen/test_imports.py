"""Which parts of data_gen may import which."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2] / "data_gen"


def imported(text):
  """Full names of what a module imports, "from a import b" as "a.b"."""
  found = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def test_imported_by_hand():
  text = "import a.b\ndef f():\n  from c.d import e as x, g\n"
  assert imported(text) == {"a.b", "c.d.e", "c.d.g"}


@pytest.mark.parametrize(
  "path", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.name
)
def test_tools_know_nothing_of_sources(path):
  """A source may use a tool's parts; a tool sees pixels only."""
  names = imported(path.read_text())
  assert not [n for n in names if n.startswith("data_gen.sources")]
