"""The commands inside a test: their modules, and whole commands."""

import contextlib
import importlib.util
import io
import sys
import types

import pytest
from absl import flags


def load(name: str) -> types.ModuleType:
  """`vpd_jax.NAME`, though another command declared flags of the same names.

  Each command declares --config and --workdir, which absl takes once in a
  process. Those of the one before are forgotten; tests use no flag's value.
  """
  # flags.FLAGS may be asked only where it counts as parsed or not at all.
  flags.FLAGS.unparse_flags()
  for flag in ("config", "workdir"):
    if flag in flags.FLAGS:
      delattr(flags.FLAGS, flag)
  module = importlib.import_module(f"vpd_jax.{name}")
  flags.FLAGS.mark_as_parsed()
  return module


def call(name: str, *argv: str) -> str:
  """Does what `python -m vpd_jax.NAME ARGV` does; what that printed.

  In this process, which has imported all that a command would import. Errors
  are raised as they are. Flags of other commands are put back afterwards.
  """
  command = [f"vpd_jax.{name}", *argv]
  found = importlib.util.find_spec(command[0])
  assert found is not None and found.origin is not None
  spec = importlib.util.spec_from_file_location("command", found.origin)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  printed = io.StringIO()
  with pytest.MonkeyPatch.context() as patch, _no_flags_of_ours():
    patch.setattr(sys, "argv", command)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(printed):
      module.main(flags.FLAGS(command))
  return printed.getvalue()


@contextlib.contextmanager
def _no_flags_of_ours():
  """Inside, no flag of a command is declared; its own are gone afterwards."""
  flags.FLAGS.unparse_flags()
  aside = [
    (module, flag)
    for module, declared in flags.FLAGS.flags_by_module_dict().items()
    if module.startswith("vpd_jax.")
    for flag in declared
    if flag.name in flags.FLAGS
  ]
  for _, flag in aside:
    delattr(flags.FLAGS, flag.name)
  others = set(flags.FLAGS)
  try:
    yield
  finally:
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - others:
      delattr(flags.FLAGS, name)
    for module, flag in aside:
      flags.FLAGS[flag.name] = flag
      flags.FLAGS.register_flag_by_module(module, flag)
    flags.FLAGS.mark_as_parsed()
