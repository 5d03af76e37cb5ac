"""Checks a config against the signatures that its sections are passed to."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from vpd_jax import spelling


def check_keywords(
  function: Callable[..., Any],
  section: Mapping[str, Any],
  name: str,
  given: Collection[str] = (),
) -> None:
  """Checks that `function(**section)` names parameters that exist.

  Args:
    function: that the section is passed to; a class stands for its __init__.
    section: keyword arguments.
    name: of the section in the config, for messages.
    given: parameters that the caller fills in.

  Raises:
    ValueError: for an unknown or a missing key; names the nearest.
  """
  parameters = inspect.signature(function).parameters.values()
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return
  kinds = (
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
  )
  known = [p for p in parameters if p.kind in kinds and p.name not in given]
  check_names(section, [p.name for p in known], f"config.{name}.")
  missing = [
    p.name for p in known if p.default is p.empty and p.name not in section
  ]
  if missing:
    raise ValueError(
      f"config.{name} lacks {missing}; set config.{name}.{missing[0]}."
    )


def check_names(
  found: Iterable[str], known: Collection[str], prefix: str = "config."
) -> None:
  """Raises ValueError for the first unknown key; names the nearest."""
  for key in found:
    if key not in known:
      hint = spelling.hint(key, known, prefix)
      raise ValueError(
        f"{prefix}{key} is no option.{hint} There are: {sorted(known)}."
      )
