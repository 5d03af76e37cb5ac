"""Shardings for a state and a batch; putting arrays on the mesh."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vpd_jax import step, trees
from vpd_jax.models import layers
from vpd_jax.sharding import mesh as mesh_lib
from vpd_jax.sharding import rules as rules_lib

_TOKENS_ADVICE = (
  " Tokens are those of an image, and with the prompt's after them: choose"
  " input.lengths.prompt, or image_px, so that both divide."
)


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
          f" divide over mesh axis {_text(axis)} ({ways}); make that"
          f" {' or '.join(map(str, mesh_lib.divisors(size)))}, or choose another"
          " sharding.strategy."
        )
    return variable.replace(NamedSharding(mesh, PartitionSpec(*spec)))

  return nnx.to_pure_dict(nnx.map_state(place, params))


def abstract_state(
  params: Any,
  shardings: Any,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  frozen: Any = None,
  *,
  has_ema: bool = False,
) -> step.TrainState:
  """Shapes and shardings of a whole state.

  What the optimizer keeps for a parameter lies as that parameter does: Adam's
  moments in the same way, Adafactor's sums over rows and over columns as the
  dimensions that they still have. The rest is whole everywhere.

  Args:
    params: those that train: arrays, or their shapes; nested dicts.
    shardings: of all parameters, from `param_shardings`.
    tx: the optimizer.
    mesh: that all lies on.
    frozen: the other parameters; None: there are none.
    has_ema: whether a moving average of `params` is kept.

  Returns:
    A TrainState of jax.ShapeDtypeStruct with shardings.
  """
  whole = NamedSharding(mesh, PartitionSpec())
  init = functools.partial(step.init_state, tx=tx, has_ema=has_ema)
  state = jax.eval_shape(init, params, frozen=frozen or {})
  named = trees.flatten_with_names(shardings)
  trained = trees.unflatten_like(state.params, named)
  opt_shardings = optax.tree_map_params(
    tx,
    _like_parameter,
    state.opt_state,
    trained,
    state.params,
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
      ema=trained if has_ema else {},
    ),
  )


def _like_parameter(
  leaf: jax.ShapeDtypeStruct,
  sharding: NamedSharding,
  param: jax.ShapeDtypeStruct,
) -> NamedSharding:
  """Of what an optimizer keeps for a parameter: in its shape, or summed."""
  spec = [*sharding.spec] + [None] * (param.ndim - len(sharding.spec))
  if leaf.shape != param.shape:
    # Of two dimensions of one length, either may be the one that is gone.
    for gone in range(param.ndim):
      if leaf.shape == param.shape[:gone] + param.shape[gone + 1 :]:
        spec.pop(gone)
        break
    else:
      spec = []
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def batch_sharding(mesh: jax.sharding.Mesh, strategy: str) -> NamedSharding:
  """How the rows of a batch are cut: over the batch's mesh axes."""
  return NamedSharding(mesh, PartitionSpec(rules_lib.get(strategy)["batch"]))


def input_sharding(name: str, rows: NamedSharding) -> NamedSharding:
  """How one array of a batch is cut: images along their height too.

  Rows of pixels become rows of patches, which follow each other in the
  sequence of tokens: a share of the one is a share of the other. A NaFlex's are
  in that sequence as they come.

  Args:
    name: of the array in the batch.
    rows: from `batch_sharding`.
  """
  if name != "image":
    return rows
  return NamedSharding(rows.mesh, PartitionSpec(*rows.spec, "sequence"))


def constrained(
  function: Callable[..., Any], mesh: jax.sharding.Mesh, strategy: str
) -> Callable[..., Any]:
  """The function, with activations cut as its layers name their axes.

  Left to itself, the compiler cuts a long sequence in some places, and holds
  all of it on each device in others.

  Args:
    function: traced under jit; a loss, say.
    mesh: with more than one device, else nothing is done.
    strategy: a table of `sharding.rules`.
  """
  rules = rules_lib.get(strategy)

  def constraint(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    spec = rules_lib.spec(axes, rules)
    for name, size, axis in zip(axes, x.shape, spec, strict=False):
      ways = axis_size(mesh, axis)
      if size % ways:
        raise ValueError(
          f"{size} {name} do not divide over mesh axis {_text(axis)} ({ways});"
          f" it would over {' or '.join(map(str, mesh_lib.divisors(size)))}."
          + (_TOKENS_ADVICE if name == "tokens" else "")
        )
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(x, sharding)

  @functools.wraps(function)
  def call(*args, **kwargs):
    with layers.constrained(constraint):
      return function(*args, **kwargs)

  return call if mesh.size > 1 else function


def check_batch_size(batch_size: int, sharding: NamedSharding) -> None:
  """ValueError if a batch does not divide over the devices that share it."""
  ways = axis_size(sharding.mesh, sharding.spec[0])
  if batch_size % ways:
    low = batch_size // ways * ways
    options = " or ".join(str(n) for n in (low, low + ways) if n)
    raise ValueError(
      f"input.batch_size={batch_size} does not divide over the mesh axes"
      f" {_text(sharding.spec[0])} ({ways} ways); try {options}."
    )


def check_image(image_px: int, patch_px: int, mesh: jax.sharding.Mesh) -> None:
  """ValueError if rows of patches do not divide over the axis "sequence"."""
  ways, rows = axis_size(mesh, "sequence"), image_px // patch_px
  if rows % ways:
    sizes = [n * ways * patch_px for n in (rows // ways, rows // ways + 1) if n]
    raise ValueError(
      f"input.image_px={image_px} has {rows} rows of patches of {patch_px} px,"
      f" which do not divide over sharding.mesh.sequence={ways}; try sequence="
      f"{' or '.join(map(str, mesh_lib.divisors(rows)))}, or image_px="
      f"{' or '.join(map(str, sizes))}."
    )


def put_batch(
  batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
  """This process's rows of a batch -> global arrays on the mesh.

  Each process gives the rows that its devices hold, in ascending order, as
  `mixture.rows_of` names them. Where an axis that does not cut the rows
  crosses processes, several give the same ones.

  Args:
    batch: arrays of this process's rows, [rows, ...].
    sharding: of the rows, from `batch_sharding`.

  Raises:
    ValueError: if an array cannot be cut so; before anything is sent.
  """
  return {name: _put(name, x, sharding) for name, x in batch.items()}


def _put(name: str, local: np.ndarray, rows: NamedSharding) -> jax.Array:
  sharding = input_sharding(name, rows)
  ways = axis_size(rows.mesh, rows.spec[0])
  # The rows are cut into as many blocks as there are ways; these are here.
  held = rows.addressable_devices_indices_map((ways,)).values()
  blocks = sorted({(index or (slice(None),))[0].start or 0 for index in held})
  each, rest = divmod(len(local), len(blocks))
  if rest or not each:
    raise ValueError(
      f"{len(local)} rows of {name!r} do not divide over the {len(blocks)}"
      f" of {ways} shares of a batch that this process's devices hold."
    )
  shape = (each * ways, *local.shape[1:])
  for dim, axis in enumerate(sharding.spec):
    if shape[dim] % axis_size(rows.mesh, axis):
      raise ValueError(
        f"dimension {dim} of {name!r}, of shape {shape}, does not divide over"
        f" mesh axis {_text(axis)} ({axis_size(rows.mesh, axis)}); it would over"
        f" {' or '.join(map(str, mesh_lib.divisors(shape[dim])))}."
      )
  place = {block: number * each for number, block in enumerate(blocks)}

  def share(index: tuple[slice, ...] | None) -> np.ndarray:
    assert index is not None
    start = place[(index[0].start or 0) // each]
    return local[start : start + each][:, *index[1:]]

  return jax.make_array_from_callback(shape, sharding, share)


def axis_size(mesh: Any, axis: str | tuple[str, ...] | None) -> int:
  """Number of devices along a mesh axis, or several, or none (1)."""
  axes = (axis,) if isinstance(axis, str) else axis or ()
  return math.prod(mesh.shape[a] for a in axes)


def _text(axis: str | tuple[str, ...] | None) -> str:
  return repr(axis) if isinstance(axis, str) else " x ".join(axis or ())
