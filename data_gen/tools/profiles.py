"""The program APIs that there are, by name.

    profile = get("viper")
    names = profile.namespace(call)      # What a program finds defined.
    text = profile.format_answer(value)  # What it returned, as text.

"vpd" is the set of Visual Program Distillation, "viper" that of ViperGPT. The
contained worker runs this too: standard library only.
"""

import types
from collections.abc import Mapping
from typing import Any, Protocol

from data_gen.tools import api, api_calls, api_viper


class Profile(Protocol):
  """A module with a program API."""

  def namespace(self, call: api_calls.CallTool) -> dict[str, Any]:
    """The names that a program finds defined, bound to `call`."""
    ...

  def prompt_text(self) -> str:
    """The API as a Python stub with docstrings, for a program writer."""
    ...

  def format_answer(self, value: Any) -> str:
    """What a program returned, as text; raises `api_calls.BadAnswer`."""
    ...


PROFILES: Mapping[str, Profile] = types.MappingProxyType(
  {"vpd": api, "viper": api_viper}
)


def get(name: str) -> Profile:
  """The named profile.

  Raises:
    KeyError: if there is none; lists those that exist.
  """
  if name not in PROFILES:
    raise KeyError(f"no program API {name!r}; there are {sorted(PROFILES)}")
  return PROFILES[name]
