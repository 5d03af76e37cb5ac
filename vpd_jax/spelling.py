"""Guesses which known name was meant by one that is not known.

Needs nothing beyond the standard library, so data_gen uses it too.
"""

import difflib
from collections.abc import Iterable


def hint(name: str, known: Iterable[str], prefix: str = "") -> str:
  """A sentence for an error message, or "" if no known name is near.

  Args:
    name: as it was written.
    known: the names that there are.
    prefix: put before the name that is proposed, such as "config.input.".

  >>> hint("batch_sise", ["batch_size", "image_px"], "config.input.")
  " Did you mean 'config.input.batch_size'?"
  """
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return f" Did you mean {prefix + near[0]!r}?" if near else ""
