"""The arrays that a run starts from, on the mesh; `build` has their shapes."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpd_jax import build, step, trees
from vpd_jax.checkpoint import model_folder, store
from vpd_jax.models import lora, quantized


def init_state(config: Any, parts: build.Parts) -> step.TrainState:
  """The state before the first step, on the mesh.

  Parameters come from `config.init` where it is set, a file of `export` or a
  folder of `convert`, else from the model's own initialisation with
  `config.seed`. Low-rank updates are in no such file: they start from their own
  initialisation.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if its names or shapes are not the model's; lists all.
  """
  shardings = jax.tree.map(lambda x: x.sharding, parts.state)
  optimizer = parts.optimizer
  has_ema = optimizer.ema_decay > 0

  def fresh():
    params = nnx.state(parts.make_model(), nnx.Param)
    return nnx.to_pure_dict(params)

  if not config.init:

    def start():
      trained, frozen = optimizer.partition(fresh())
      return step.init_state(trained, optimizer.tx, frozen, has_ema=has_ema)

    return jax.jit(start, out_shardings=shardings)()

  named = trees.flatten_with_names(parts.state.all_params)
  updates = {n: x.sharding for n, x in named.items() if lora.is_update(n)}
  expected = parts.unquantized | {
    name: x
    for name, x in named.items()
    if name not in updates and name.rpartition("/")[0] not in parts.unquantized
  }

  def quantize(name, array):
    """Each kernel alone is float32 on the mesh, until it is quantized."""
    if name not in parts.unquantized:
      return array
    ends = {end: named[f"{name}/{end}"].sharding for end in quantized.ARRAYS}
    made = functools.partial(
      quantized.quantize, dtype=config.optim.frozen_dtype
    )
    return jax.jit(made, out_shardings=ends)(array)

  arrays = trees.flatten_with_names(_load(config.init, expected, quantize))

  def fresh_updates():
    made = trees.flatten_with_names(fresh())
    return {name: made[name] for name in updates}

  arrays |= jax.jit(fresh_updates, out_shardings=updates)()
  params = trees.unflatten_like(parts.state.params, arrays)
  return step.TrainState(
    step=jax.device_put(np.zeros((), np.int32), shardings.step),
    params=params,
    # Compiled without the parameters, which would be copied otherwise.
    opt_state=jax.jit(optimizer.tx.init, out_shardings=shardings.opt_state)(
      params
    ),
    frozen=trees.unflatten_like(parts.state.frozen, arrays),
    ema=jax.tree.map(jnp.copy, params) if has_ema else {},
  )


def _load(
  init: str,
  expected: dict[str, jax.ShapeDtypeStruct],
  then: Callable[[str, jax.Array], Any],
) -> dict[str, Any]:
  """Named arrays of a folder of ours, or of a single file, on the mesh."""
  if model_folder.is_one(init):
    return model_folder.load(init, expected, then=then)
  if pathlib.Path(init).is_dir():
    raise FileNotFoundError(
      f"config.init={init} has no {model_folder.NAME}. Make a folder of ours of"
      f" it: python -m vpd_jax.convert --from=hf:{init} --to=DIR"
    )
  loaded = store.load_params(init, expected)
  return {
    name: then(name, jax.device_put(loaded[name], x.sharding))
    for name, x in expected.items()
  }


def restore_best(
  parts: build.Parts, folder: str | os.PathLike, best_step: int
) -> step.Params:
  """All parameters of a run's best step, trained and frozen.

  Args:
    parts: what the run's config built.
    folder: the run's workdir.
    best_step: from its training.json.

  Raises:
    FileNotFoundError, ValueError: as `store.Store.restore`.
  """
  folder, state = pathlib.Path(folder), parts.state
  return step.join(
    store.restore_params(folder / "best", best_step, state.params),
    store.restore_frozen(folder / "frozen", state.frozen),
  )
