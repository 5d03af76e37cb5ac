"""Which family of `vpd_jax.models` reads a foreign model.

A family takes part by having `params.py` (tables of names) and `hf_config.py`
(options to and from config.json); nothing is registered. What it reads makes
its `model.Model`; where something makes another class, as BLIP-2's first stage
does, `hf_config.CLASSES` says so.
"""

import functools
import importlib
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from vpd_jax import config_check, lookup, trees
from vpd_jax.checkpoint import model_folder

_MODELS = "vpd_jax.models"
MODEL = model_folder.MODEL


def names() -> list[str]:
  """Families that read and write foreign models."""
  (folder,) = importlib.import_module(_MODELS).__path__
  found = pathlib.Path(folder).glob("*/hf_config.py")
  return sorted(path.parent.name for path in found)


def module(family: str, inner: str) -> types.ModuleType:
  """A module of a family, such as "params"; KeyError lists the families."""
  return lookup.module(_MODELS, family, inner)


def of_config(config: Mapping[str, Any]) -> tuple[str, str]:
  """(family, part) that a config.json describes.

  Raises:
    ValueError: if no family reads it; lists what they read.
  """
  known = {}
  for family in names():
    for model_type, part in _types(family).items():
      known[model_type] = (family, part)
  kind = config.get("model_type")
  if kind not in known:
    raise ValueError(
      f"config.json has model_type={kind!r}; known are"
      f" {', '.join(f'{t} ({f})' for t, (f, _) in sorted(known.items()))}."
    )
  family, part = known[kind]
  # One model_type may be several models.
  part_of = getattr(module(family, "hf_config"), "part_of", None)
  return family, part_of(config) if part_of else part


def options(family: str, part: str, config: Mapping[str, Any]) -> dict:
  """Keyword arguments of the part's class that a config.json decides."""
  read = module(family, "hf_config").options
  return _classes(family).get(part, (MODEL, read))[1](config)


def class_of(family: str, part: str) -> str:
  """Our class that a part makes, or helps to make, such as "model.Model"."""
  return _classes(family).get(part, (MODEL, None))[0]


def parts(family: str, cls: str = MODEL) -> list[str]:
  """What a class is put together from, as foreign models go.

  Raises:
    ValueError: if the family has no such class; lists those it has.
  """
  known = {MODEL: [*dict.fromkeys(_types(family).values())]}
  known |= {name: [part] for part, (name, _) in _classes(family).items()}
  if cls not in known:
    raise ValueError(f"{family} has no class {cls!r}; it has {[*known]}.")
  return known[cls]


def _types(family: str) -> Mapping[str, str]:
  return module(family, "hf_config").MODEL_TYPES


def _classes(family: str) -> Mapping[str, Any]:
  return getattr(module(family, "hf_config"), "CLASSES", {})


class Shapes:
  """A family's model as shapes: nothing is allocated.

  Attributes:
    graphdef: for `step.merge`.
    tree: of jax.ShapeDtypeStruct, as `step.merge` takes parameters.
    named: our name -> jax.ShapeDtypeStruct.
    axes: our name -> logical axes.
  """

  def __init__(self, family: str, options: Mapping[str, Any], cls: str = MODEL):
    """Raises ValueError for a class or an option that there is not."""
    parts(family, cls)
    inner, _, name = cls.partition(".")
    made = getattr(module(family, inner), name)
    config_check.check_keywords(
      made.__init__, options, f"{family} options", {"self"}
    )
    self._make = functools.partial(made, **options)
    self.graphdef, state = nnx.split(nnx.eval_shape(self._make), nnx.Param)
    self.tree = nnx.to_pure_dict(state)
    self.named = trees.flatten_with_names(self.tree)
    self.axes = model_folder.axes_of(state)

  def rows(self) -> int:
    """Of the embedding: how many tokens there are room for."""
    return next(
      self.named[name].shape[axes.index("vocab")]
      for name, axes in self.axes.items()
      if "vocab" in axes
    )

  def fresh(self, names: list[str]) -> dict[str, jax.Array]:
    """Initial values of some arrays; the others are not computed."""

    def draw():
      state = nnx.to_pure_dict(nnx.state(self._make(), nnx.Param))
      named = trees.flatten_with_names(state)
      return {name: named[name] for name in names}

    return jax.jit(draw)()
