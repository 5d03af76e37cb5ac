"""One warm worker for each module of programs."""

import pytest

from tests.sandbox import contained


@pytest.fixture(scope="module")
def executor():
  with contained.start() as executor:
    yield executor


@pytest.fixture(scope="module")
def ungated(tmp_path_factory):
  """An executor whose programs pass no gate; a secret lies about on the host."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("VPD_SECRET", "hunter2")
    folder = tmp_path_factory.mktemp("ungated")
    with contained.start_ungated(folder) as executor:
      yield executor
