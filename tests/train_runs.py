"""What tests of training share: runs in this process, and what they left."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from data_gen import run as data_gen_run
from tests import configs, entries
from vpd_jax import trees
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer

_CACHE = {
  "jax_compilation_cache_dir": "",
  "jax_persistent_cache_min_compile_time_secs": 0.0,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextlib.contextmanager
def compiled_once(folder: pathlib.Path) -> Iterator[None]:
  """Inside, programs are compiled once for all runs that keep them there."""
  before = {name: getattr(jax.config, name) for name in _CACHE}
  options = _CACHE | {"jax_compilation_cache_dir": str(folder)}
  try:
    for name, value in options.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def env(folder: pathlib.Path) -> dict[str, str]:
  """Of a command: one device, as a user's; compiled once, see above."""
  flags = os.environ["XLA_FLAGS"].split()
  kept = [flag for flag in flags if "device_count" not in flag]
  options = _CACHE | {"jax_compilation_cache_dir": folder}
  names = {name.upper(): str(value) for name, value in options.items()}
  return dict(os.environ) | {"XLA_FLAGS": " ".join(kept)} | names


def data(folder: pathlib.Path) -> str:
  """Makes the smallest data set; its folder of examples."""
  data_gen_run.generate(configs.tiny_world(), folder)
  return str(folder / "examples")


def train(config: Any, workdir: pathlib.Path) -> str:
  """Trains in this process; what it printed."""
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    entries.load("train").train(config, str(workdir))
  return out.getvalue()


def saved(
  workdir: pathlib.Path, at_step: int, folder: str = "checkpoints"
) -> dict[str, jax.Array]:
  """Name -> array of a checkpoint, on one device."""
  opened = store.Store(workdir / folder, is_read_only=True)
  tree = opened._manager.item_metadata(at_step)["state"].tree
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), tree
  )
  return trees.flatten_with_names(opened.restore(at_step, abstract)[0])


def losses(workdir: pathlib.Path) -> dict[int, float]:
  """Step -> loss of a run's metrics."""
  rows = [row for row in writer.read(workdir) if "loss" in row]
  return {int(row["step"]): row["loss"] for row in rows}
