"""A tiny PaLI, and a look into what is computed."""

import jax
import pytest

from tests import tiny
from vpd_jax import step


@pytest.fixture(scope="session")
def parts():
  """(graphdef, params) of a tiny PaLI."""
  return tiny.pali(seed=3)


@pytest.fixture(scope="session")
def inputs():
  """(image, prompt) of 6 examples; prompts of varied lengths."""
  batch = tiny.on_device(tiny.batch(6))
  return batch["image"], batch["label_prompt"]


@pytest.fixture(scope="session")
def shapes():
  """Of all arrays that a function of (model, *arrays) makes."""

  def of(function, parts, *arrays):
    graphdef, params = parts
    closed = jax.make_jaxpr(
      lambda params, *arrays: function(step.merge(graphdef, params), *arrays)
    )(params, *arrays)
    return {shape for shape in _shapes(closed.jaxpr) if shape}

  return of


def _shapes(jaxpr):
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield getattr(variable.aval, "shape", ())
    for value in equation.params.values():
      for part in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
          yield from _shapes(inner)
