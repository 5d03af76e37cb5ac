"""Shardings for a state and a batch; putting arrays on the mesh."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vpd_jax import step, trees
from vpd_jax.sharding import rules as rules_lib


def param_shardings(
  params: nnx.State, mesh: jax.sharding.Mesh, strategy: str
) -> Any:
  """A NamedSharding per parameter, from the axis names beside it.

  Args:
    params: an nnx.State of `nnx.Param` with metadata `axes`; arrays or shapes.
      With metadata `may_be_whole`, a dimension that does not divide stays
      whole.
    mesh: of `sharding.mesh.make`.
    strategy: a table of `sharding.rules`.

  Returns:
    The same tree with a NamedSharding for each value, as plain nested dicts.

  Raises:
    ValueError: if a parameter does not divide over its mesh axes.
  """
  rules = rules_lib.get(strategy)

  def place(path, variable):
    spec = rules_lib.spec(variable.get_metadata()["axes"], rules)
    shape = variable.get_value().shape
    for dim, (size, axis) in enumerate(zip(shape, spec, strict=True)):
      ways = axis_size(mesh, axis)
      if size % ways and variable.get_metadata().get("may_be_whole"):
        spec[dim] = None
      elif size % ways:
        raise ValueError(
          f"parameter {'/'.join(map(str, path))} of shape {shape} does not"
          f" divide over mesh axis {axis!r} ({ways}); use a mesh whose {axis}"
          f" axis divides {size}, or another sharding.strategy."
        )
    return variable.replace(NamedSharding(mesh, PartitionSpec(*spec)))

  return nnx.to_pure_dict(nnx.map_state(place, params))


def abstract_state(
  params: Any,
  shardings: Any,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  frozen: Any = None,
) -> step.TrainState:
  """Shapes and shardings of a whole state.

  Optimizer state that belongs to a parameter (Adam's moments) lies as that
  parameter does; the rest is whole everywhere.

  Args:
    params: those that train: arrays, or their shapes; nested dicts.
    shardings: of all parameters, from `param_shardings`.
    tx: the optimizer.
    mesh: that all lies on.
    frozen: the other parameters; None: there are none.

  Returns:
    A TrainState of jax.ShapeDtypeStruct with shardings.
  """
  whole = NamedSharding(mesh, PartitionSpec())
  init = functools.partial(step.init_state, tx=tx)
  state = jax.eval_shape(init, params, frozen=frozen or {})
  named = trees.flatten_with_names(shardings)
  trained = trees.unflatten_like(state.params, named)
  opt_shardings = optax.tree_map_params(
    tx,
    lambda _, sharding: sharding,
    state.opt_state,
    trained,
    transform_non_params=lambda _: whole,
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    state._replace(
      step=whole,
      params=trained,
      opt_state=opt_shardings,
      frozen=trees.unflatten_like(state.frozen, named),
    ),
  )


def batch_sharding(mesh: jax.sharding.Mesh, strategy: str) -> NamedSharding:
  """How inputs are cut: the leading axis over the batch's mesh axes."""
  return NamedSharding(mesh, PartitionSpec(rules_lib.get(strategy)["batch"]))


def check_batch_size(batch_size: int, sharding: NamedSharding) -> None:
  """ValueError if a batch does not divide over the devices that share it."""
  ways = axis_size(sharding.mesh, sharding.spec[0])
  if batch_size % ways:
    low = batch_size // ways * ways
    options = " or ".join(str(n) for n in (low, low + ways) if n)
    raise ValueError(
      f"input.batch_size={batch_size} does not divide over the mesh's batch"
      f" axes ({ways} ways); try {options}."
    )


def put_batch(
  batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
  """This process's rows of a batch -> global arrays on the mesh."""
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def axis_size(mesh: Any, axis: str | tuple[str, ...] | None) -> int:
  """Number of devices along a mesh axis, or several, or none (1)."""
  axes = (axis,) if isinstance(axis, str) else axis or ()
  return math.prod(mesh.shape[a] for a in axes)
