"""Names of the arrays in a tree: flatten, compare, match by pattern.

A name is the path of keys joined by "/", whatever the containers are:

    {"encoder": {"w": x}, "layers": [y]}  ->  "encoder/w", "layers/0"
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def flatten_with_names(tree: Any) -> dict[str, Any]:
  """Leaves by name, in the tree's order.

  Raises:
    ValueError: if two leaves get one name, as a "/" inside a key can do.
  """
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = _name(path)
    if name in named:
      raise ValueError(f"two arrays are named {name!r}; keep '/' out of keys")
    named[name] = leaf
  return named


def unflatten_like(tree: Any, named: Mapping[str, Any]) -> Any:
  """A tree of the structure of `tree` with the leaves of `named`."""
  leaves = [named[name] for name in flatten_with_names(tree)]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def nest(named: Mapping[str, Any]) -> dict[str, Any]:
  """Named leaves as nested dicts, one level per "/"."""
  out: dict[str, Any] = {}
  for name, leaf in named.items():
    *folders, last = name.split("/")
    inner = out
    for folder in folders:
      inner = inner.setdefault(folder, {})
    inner[last] = leaf
  return out


def check_same(
  found: Mapping[str, Any], expected: Mapping[str, Any], what: str
) -> None:
  """Checks that two sets of named arrays have equal names and shapes.

  Args:
    found: name -> array, or anything with a shape; what a file holds.
    expected: name -> the like; what the model needs.
    what: of the file, for the message.

  Raises:
    ValueError: if they differ; lists every name left over on either side.
  """
  lines = []
  for name in sorted({*found, *expected}):
    if name not in found:
      lines.append(f"  missing {name} {_shape(expected[name])}")
    elif name not in expected:
      lines.append(f"  unused {name} {_shape(found[name])}")
    elif _shape(found[name]) != _shape(expected[name]):
      lines.append(
        f"  {name} has shape {_shape(found[name])}, expected"
        f" {_shape(expected[name])}"
      )
  if lines:
    raise ValueError(
      f"{what} is of another model: {len(lines)} arrays differ. Use"
      " the config it was made with.\n" + "\n".join(lines)
    )


def mask(tree: Any, patterns: Sequence[str]) -> Any:
  """A tree of bools: does a pattern match the leaf's name from its start?

  Raises:
    ValueError: if a pattern matches no name.
  """
  named = flatten_with_names(tree)
  for pattern in patterns:
    if not any(re.match(pattern, name) for name in named):
      raise ValueError(
        f"pattern {pattern!r} matches no array. Names look like"
        f" {list(named)[:3]}."
      )
  hits = {n: any(re.match(p, n) for p in patterns) for n in named}
  return unflatten_like(tree, hits)


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _shape(leaf) -> tuple[int, ...]:
  return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)
