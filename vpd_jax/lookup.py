"""Imports a named module of a folder; on a miss, lists the names that exist.

A name in a config is a module's name: `model.name = "pali"` is
`vpd_jax/models/pali/model.py`. So grep finds every use, and adding one is
adding a file. Needs nothing beyond the standard library, so data_gen uses it
too.
"""

import importlib
import importlib.util
import pkgutil
import types

from vpd_jax import spelling


def names(package: str) -> list[str]:
  """Names of the modules and folders in `package` that are not private."""
  path = importlib.import_module(package).__path__
  return sorted(
    m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")
  )


def module(
  package: str, name: str, inner: str | None = None
) -> types.ModuleType:
  """Imports `package.name`, or `package.name.inner` where inner is given.

  Raises:
    KeyError: if there is none; names the nearest and all that exist.
  """
  known = names(package)
  if name not in known:
    hint = spelling.hint(name, known)
    raise KeyError(f"{package} has no module {name!r}.{hint} It has: {known}.")
  return importlib.import_module(".".join(filter(None, (package, name, inner))))
