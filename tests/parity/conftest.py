"""Parity with reference implementations: the fixtures, and one table.

Every comparison is recorded with its bound before it is asserted; the table
comes after pytest's own report.
"""

import dataclasses
import importlib

import pytest


@dataclasses.dataclass
class Recorder:
  """Records a difference, then asserts its bound."""

  record_property: object

  def __call__(self, family, reference, what, difference, bound):
    row = (family, reference, what, float(difference), float(bound))
    self.record_property("parity", row)
    assert difference <= bound, row


@pytest.fixture
def compare(record_property):
  """(family, reference, what, difference, bound) -> None."""
  return Recorder(record_property)


@pytest.fixture(scope="session")
def references():
  """What makes reference models, where torch is installed."""
  return _module("references")


@pytest.fixture(scope="session")
def pali_reference():
  """The same of T5, SigLIP and PaLI."""
  return _module("pali_reference")


def _module(name):
  for package in ("torch", "transformers", "safetensors"):
    pytest.importorskip(package, reason=f"needs {package}: run make parity")
  return importlib.import_module(f"tests.parity.{name}")


def pytest_terminal_summary(terminalreporter):
  """Prints the table."""
  rows = [("family", "reference", "compared", "difference", "bound", "verdict")]
  for outcome in ("passed", "failed"):
    for report in terminalreporter.stats.get(outcome, []):
      for name, row in report.user_properties:
        if name == "parity":
          *words, difference, bound = row
          verdict = "equal" if difference <= bound else "DIFFERS"
          rows.append((*words, f"{difference:.1e}", f"{bound:g}", verdict))
  if len(rows) == 1:
    return
  terminalreporter.section("parity")
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows[:1] + sorted(rows[1:]):
    cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
    terminalreporter.write_line("  ".join(cells).rstrip())
