"""How every command starts and fails: flags, then a message, an exit code.

What a user can cause (a bad option, a missing or damaged file, a full disk)
ends with one line on stderr and exit code 1, and the traceback in a file. A
run that a signal stopped ends with 128 and the signal's number: 143 or 130. Any
other error is ours, and shows its traceback.
"""

import itertools
import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_dict
from ml_collections.config_flags import config_flags

from vpd_jax import spelling, stopping

# An extra that is not installed is the user's to install.
USER_ERRORS = (
  ValueError,
  KeyError,
  FileNotFoundError,
  PermissionError,
  ImportError,
)
DISK_ERRORS = (OSError,)
_HELP_FLAGS = ("help", "helpshort", "helpfull", "helpxml")


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

  app.run(guarded, flags_parser=parse)


def parse(argv: Sequence[str]) -> list[str]:
  """As absl, but help is no failure, and an unknown option of a config a line."""
  for name in _HELP_FLAGS:
    _end_well(flags.FLAGS[name])
  try:
    return app.parse_flags_with_usage(list(argv))
  except (AttributeError, KeyError, TypeError):
    message = _unknown_option(argv)
    if message is None:
      raise
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def _end_well(flag: flags.Flag) -> None:
  """Makes a flag that prints help end the process with 0 instead of 1."""
  parse = flag.parse

  def parse_and_end(argument):
    try:
      parse(argument)
    except SystemExit:
      sys.exit(0)

  flag.parse = parse_and_end


def _unknown_option(argv: Sequence[str]) -> str | None:
  """What is wrong with the first --config.a.b that its config has not.

  None if they all are there: then something else is.
  """
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    given = [arg.lstrip("-").partition("=") for arg in argv if arg[:1] == "-"]
    files = [value for key, _, value in given if key == name and value]
    files += [b for a, b in itertools.pairwise(argv) if a.lstrip("-") == name]
    if not config_flags.is_config_flag(flag) or not files:
      continue
    config = flag.parser.parse(files[-1])
    for key in (key for key, _, _ in given if key.startswith(f"{name}.")):
      section, path = config, name
      for part in key.split(".")[1:]:
        if not isinstance(section, config_dict.ConfigDict):
          return f"{path} has no options of its own; it is {section!r}."
        if part not in section:
          hint = spelling.hint(part, section) or f" It has {sorted(section)}."
          return f"{path} has no {part!r}.{hint}"
        section, path = section[part], f"{path}.{part}"
  return None


def _write_traceback() -> pathlib.Path:
  """Writes the traceback being handled to a file of the temporary folder."""
  descriptor, name = tempfile.mkstemp(prefix="vpd_jax-error-", suffix=".txt")
  with os.fdopen(descriptor, "w") as file:
    file.write(traceback.format_exc())
  return pathlib.Path(name)
