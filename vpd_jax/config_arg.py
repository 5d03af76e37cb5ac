"""The argument of a config file: `--config=FILE.py:res=448,lora_rank=16`."""

from types import SimpleNamespace
from typing import Any

from vpd_jax import spelling


def parse(arg: str, **defaults: Any) -> SimpleNamespace:
  """Reads "name=value,name=value" against defaults that set names and types.

  A default that is a tuple lists the texts allowed, the default first.

  >>> parse("seed=3", arm=("vpd", "twin"), seed=0)
  namespace(arm='vpd', seed=3)

  Raises:
    ValueError: for an unknown name (names the nearest), or a value that is
      not of the default's type or not on its list.
  """
  values = {
    name: default[0] if isinstance(default, tuple) else default
    for name, default in defaults.items()
  }
  for part in filter(None, (arg or "").split(",")):
    name, equals, text = part.partition("=")
    if name not in defaults or not equals:
      hint = spelling.hint(name, defaults)
      raise ValueError(
        f"config argument {part!r}: expected name=value with a name of"
        f" {sorted(defaults)}.{hint}"
      )
    if isinstance(defaults[name], tuple):
      if text not in defaults[name]:
        raise ValueError(
          f"config argument {name}={text!r} is not one of {defaults[name]}."
        )
      values[name] = text
      continue
    kind = type(defaults[name])
    try:
      values[name] = _BOOLS[text] if kind is bool else kind(text)
    except (ValueError, KeyError) as e:
      raise ValueError(
        f"config argument {name}={text!r} is not of type {kind.__name__}."
      ) from e
  return SimpleNamespace(**values)


_BOOLS = {"true": True, "false": False, "1": True, "0": False}
