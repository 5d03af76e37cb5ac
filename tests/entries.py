"""The commands' modules inside a test, where no command line is parsed."""

import importlib
import types

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
