"""The argument of a config file: `--config=FILE.py:res=448,lora_rank=16`."""

import difflib
from types import SimpleNamespace
from typing import Any


def parse(arg: str, **defaults: Any) -> SimpleNamespace:
  """Reads "name=value,name=value" against defaults that set names and types.

  >>> parse("seed=3", arm="vpd", seed=0)
  namespace(arm='vpd', seed=3)

  Raises:
    ValueError: for an unknown name (names the nearest), or a value that is
      not of the default's type.
  """
  values = dict(defaults)
  for part in filter(None, (arg or "").split(",")):
    name, equals, text = part.partition("=")
    if name not in defaults or not equals:
      near = difflib.get_close_matches(name, defaults, n=1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"config argument {part!r}: expected name=value with a name of"
        f" {sorted(defaults)}.{hint}"
      )
    kind = type(defaults[name])
    try:
      values[name] = _BOOLS[text] if kind is bool else kind(text)
    except (ValueError, KeyError) as e:
      raise ValueError(
        f"config argument {name}={text!r} is not of type {kind.__name__}."
      ) from e
  return SimpleNamespace(**values)


_BOOLS = {"true": True, "false": False, "1": True, "0": False}
