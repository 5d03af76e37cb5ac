"""How every command starts and fails: flags, then a message, an exit code.

What a user can cause (a bad option, a missing or damaged file, a full disk)
ends with one line on stderr and exit code 1, and the traceback in a file. A
run that a signal stopped ends with 128 and the signal's number: 143 or 130. Any
other error is ours, and shows its traceback.
"""

import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from absl import app, logging

from vpd_jax import stopping

# An extra that is not installed is the user's to install.
USER_ERRORS = (
  ValueError,
  KeyError,
  FileNotFoundError,
  PermissionError,
  ImportError,
)
DISK_ERRORS = (OSError,)


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses flags and runs `main`; ends the process with its exit code."""

  def guarded(argv: Sequence[str]) -> None:
    # Orbax writes dozens of lines per checkpoint at the level of INFO.
    logging.set_verbosity(logging.WARNING)
    try:
      main(argv)
    except stopping.Stopped as e:
      sys.stdout.flush()
      print(e, file=sys.stderr)
      sys.exit(e.exit_code)
    except KeyboardInterrupt:
      print("Interrupted; run the same command to go on.", file=sys.stderr)
      sys.exit(130)
    except USER_ERRORS + DISK_ERRORS as e:
      sys.stdout.flush()
      message = e.args[0] if isinstance(e, KeyError) and e.args else e
      print(f"error: {message}", file=sys.stderr)
      print(f"(traceback: {_write_traceback()})", file=sys.stderr)
      sys.exit(1)

  app.run(guarded)


def _write_traceback() -> pathlib.Path:
  """Writes the traceback being handled to a file of the temporary folder."""
  descriptor, name = tempfile.mkstemp(prefix="vpd_jax-error-", suffix=".txt")
  with os.fdopen(descriptor, "w") as file:
    file.write(traceback.format_exc())
  return pathlib.Path(name)
