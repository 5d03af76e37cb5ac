"""Names of arrays: flatten and back, comparison messages, masks."""

from typing import NamedTuple

import numpy as np
import pytest

from vpd_jax import trees


class _Pair(NamedTuple):
  left: object
  right: object


_TREE = {"b": [1, {"w": 2}], "a": _Pair(3, ()), "c": None}


def test_names_are_paths_whatever_the_containers_are():
  assert trees.flatten_with_names(_TREE) == {
    "a/left": 3,
    "b/0": 1,
    "b/1/w": 2,
  }


def test_unflatten_puts_leaves_back():
  named = trees.flatten_with_names(_TREE)
  assert trees.unflatten_like(_TREE, named) == _TREE
  assert trees.nest(named) == {
    "a": {"left": 3},
    "b": {"0": 1, "1": {"w": 2}},
  }


def test_two_arrays_of_one_name_are_refused():
  with pytest.raises(ValueError, match="two arrays are named 'a/b'"):
    trees.flatten_with_names({"a/b": 1, "a": {"b": 2}})


def test_differences_are_all_listed():
  found = {"w": np.zeros((2, 3)), "old": np.zeros(4), "same": 1.0}
  expected = {"w": np.zeros((3, 2)), "new": np.zeros(5), "same": 2.0}
  trees.check_same(found, found, "x")
  with pytest.raises(ValueError) as caught:
    trees.check_same(found, expected, "file x")
  first, *lines = str(caught.value).splitlines()
  assert first.startswith("file x is of another model: 3 arrays differ")
  assert lines == [
    "  missing new (5,)",
    "  unused old (4,)",
    "  w has shape (2, 3), expected (3, 2)",
  ]


def test_mask_matches_from_the_start_of_names():
  tree = {"vit": {"w": 0, "b": 0}, "lm": {"vit": 0}}
  assert trees.mask(tree, ["vit/"]) == {
    "vit": {"w": True, "b": True},
    "lm": {"vit": False},
  }
  assert trees.mask(tree, [".*/b$", "lm"])["vit"] == {"w": False, "b": True}
  assert not any(trees.flatten_with_names(trees.mask(tree, [])).values())
  with pytest.raises(ValueError, match=r"'vti' matches no array.*'lm/vit'"):
    trees.mask(tree, ["vit", "vti"])
