"""What tests of training share: runs in this process, and what they left."""

import atexit
import contextlib
import functools
import io
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from data_gen import run as data_gen_run
from tests import configs, entries
from vpd_jax import build, initial, trees
from vpd_jax.checkpoint import store
from vpd_jax.logs import writer


@functools.cache
def data() -> str:
  """Folder of examples of the smallest data set, made once; not to change."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="vpd_jax_data_"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  data_gen_run.generate(configs.tiny_world(), folder)
  return str(folder / "examples")


def train(config: Any, workdir: pathlib.Path) -> str:
  """Trains in this process; what it printed.

  Runs whose configs say the same of model, loss, optimizer, input and devices
  share what is built and compiled of them.
  """
  out = io.StringIO()
  with shared(config), contextlib.redirect_stdout(out):
    entries.load("train").train(config, str(workdir))
  return out.getvalue()


# Of a config, what no model, state or step depends on: a run's name, when it
# saves, evaluates and logs, which examples it reads.
_NOT_BUILT = (
  *("arm", "checkpoint", "data_dir", "evaluators", "log", "log_every_steps"),
  *("profile", "select"),
)
_MADE: dict[tuple[str, str], Any] = {}


@contextlib.contextmanager
def shared(config: Any) -> Iterator[None]:
  """Inside, a config is built and its step compiled once for all like it."""
  said = config.to_dict()
  for name in _NOT_BUILT:
    said.pop(name, None)
  said["input"] = {k: v for k, v in said["input"].items() if k != "data"}
  key = json.dumps(said, sort_keys=True, default=str)

  initial_state = initial.init_state

  def once(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args):
      if (key, name) not in _MADE:
        _MADE[key, name] = make(*args)
      return _MADE[key, name]

    return made

  def fresh(config, parts):
    """A copy each time: a step writes over the state it is given."""
    if config.init:
      return initial_state(config, parts)
    host = once("state", lambda *args: jax.device_get(initial_state(*args)))
    return jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding),
      host(config, parts),
      parts.state,
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "build", once("parts", build.build))
    patch.setattr(build, "compile_step", once("step", build.compile_step))
    patch.setattr(initial, "init_state", fresh)
    yield


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
