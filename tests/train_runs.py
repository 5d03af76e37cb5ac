"""What tests of training share: runs in this process, and what they left."""

import contextlib
import io
import os
import pathlib
from typing import Any

import jax

from data_gen import run as data_gen_run
from tests import configs, entries
from vpd_jax import trees
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer


def env() -> dict[str, str]:
  """Of a command: one device, as a user's."""
  flags = os.environ["XLA_FLAGS"].split()
  kept = [flag for flag in flags if "device_count" not in flag]
  return dict(os.environ) | {"XLA_FLAGS": " ".join(kept)}


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
