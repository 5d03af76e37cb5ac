"""Checks of a config.json's fields that all families share."""

import math
from collections.abc import Mapping
from typing import Any


def check_counts(fields: Mapping[str, Any], where: str = "") -> None:
  """Checks that every field is a whole number above 0.

  Args:
    fields: name -> value.
    where: in front of the names, such as "vision_config.".

  Raises:
    ValueError: for the first that is not: 32.0, "32" and true are none.
  """
  for name, value in fields.items():
    if type(value) is not int or value < 1:
      raise ValueError(
        f"config.json has {where}{name}={value!r}; expected a whole number"
        " above 0."
      )


def is_positive(value: Any) -> bool:
  """Whether it is a number above 0, and finite; true is none."""
  return type(value) in (int, float) and 0 < value < math.inf


def check_tower(
  fields: Mapping[str, Any], where: str = "", grid: str = "image_size"
) -> None:
  """Checks the numbers of a SigLIP: counts, and that they fit each other.

  Args:
    fields: transformers' names -> values, all of them counts.
    where: as above.
    grid: the field that says how large pictures are.

  Raises:
    ValueError: as `check_counts`; if no patch fits, or heads do not divide
      the width.
  """
  check_counts(fields, where)
  patch, size = fields["patch_size"], fields[grid]
  if grid == "image_size" and size < patch:
    raise ValueError(
      f"config.json has {where}image_size={size} and patch_size={patch}: no"
      " patch fits."
    )
  width, heads = fields["hidden_size"], fields["num_attention_heads"]
  if width % heads:
    raise ValueError(
      f"config.json has {where}hidden_size={width}, which does not divide by"
      f" num_attention_heads={heads}."
    )
