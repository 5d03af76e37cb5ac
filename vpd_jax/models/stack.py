"""Blocks of one shape as a single module: arrays with a leading axis "layers".

    self.blocks = stack.make(lambda rngs: Block(..., rngs=rngs), depth, rngs)
    x, _ = stack.run(self.blocks, lambda block, x, _: (block(x), None), x)

The arrays of all blocks lie together whether they are scanned (one block is
compiled, for large models) or unrolled (each is, for small ones), so a
checkpoint does not depend on the choice.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers

B = TypeVar("B", bound=nnx.Module)
# Attribute of a block whose arrays are those of many.
STACKED = "is_stacked"
Policy = Callable[..., Any]

# What the backward pass finds ready: by name, from most memory to least. Only
# "none" keeps all; "dots" keeps products of weights, not of attention;
# "offload" keeps those in the host's memory; "full" keeps blocks' inputs only.
REMAT: Mapping[str, Policy | None] = types.MappingProxyType(
  {
    "none": None,
    "dots_attention": jax.checkpoint_policies.dots_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims(
      "device", "pinned_host"
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
  }
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layers:
  """Arrays of equal shape, one per layer, not stacked."""

  items: tuple[jax.Array, ...]

  @property
  def dtype(self) -> jnp.dtype:
    """Of each."""
    return self.items[0].dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """[layers, ...], as if they were stacked."""
    return (len(self.items), *self.items[0].shape)


class Unrolled(nnx.Module):
  """Blocks apart, each with arrays of its own; from `unroll`."""

  def __init__(self, blocks: list[nnx.Module]):
    self.blocks = nnx.List(blocks)


def make(
  make_block: Callable[[layers.Keys], B], depth: int, rngs: layers.Keys
) -> B:
  """One block whose every array holds those of `depth` blocks.

  Args:
    make_block: makes one, with its own initial weights.
    depth: how many.
    rngs: of the initial weights.

  Returns:
    A block with arrays [layers, ...]. Do not call it: `run` does.
  """
  keys = jax.random.split(rngs.params(), depth)
  arrays = jax.vmap(lambda key: nnx.state(make_block(layers.Keys(key))))(keys)
  graphdef = nnx.split(nnx.eval_shape(lambda: make_block(layers.Keys(0))))[0]
  blocks = nnx.merge(graphdef, arrays)
  setattr(blocks, STACKED, True)
  for _, variable in nnx.iter_graph(blocks):
    if isinstance(variable, nnx.Param):
      variable.set_metadata(axes=("layers", *variable.get_metadata()["axes"]))
  return blocks


def run(
  blocks: B,
  body: Callable[[B, Any, Any], tuple[Any, Any]],
  carry: Any,
  per_layer: Any = None,
  *,
  is_scanned: bool = True,
  remat: str = "none",
) -> tuple[Any, Any]:
  """Calls one block after the other.

  Args:
    blocks: from `make`.
    body: (block, carry, its layer's part of `per_layer`) -> (carry, output).
    carry: what goes from block to block; a pytree of fixed shapes.
    per_layer: pytree of arrays [layers, ...] or `Layers`, or None.
    is_scanned: compile one block and loop, else each block on its own.
    remat: a name of REMAT.

  Returns:
    (carry after the last block, outputs stacked [layers, ...]; `Layers` where
    `unroll` took the blocks apart).

  Raises:
    ValueError: if `remat` is unknown; lists those that exist.
  """
  if remat not in REMAT:
    raise ValueError(f"remat={remat!r} is not one of {list(REMAT)}.")
  if isinstance(blocks, Unrolled):
    outputs = []
    layers_ = _unstack(per_layer, len(blocks.blocks))
    for block, layer in zip(blocks.blocks, layers_, strict=True):
      block = cast(B, block)
      carry, output = body(block, carry, layer)
      outputs.append(output)
    return carry, jax.tree.map(lambda *xs: Layers(xs), *outputs)
  graphdef, arrays = nnx.split(blocks)

  def step(carry, layer):
    arrays, inputs = layer
    return body(nnx.merge(graphdef, arrays), carry, inputs)

  if REMAT[remat] is not None:
    # In a scan nothing can be merged across layers anyway.
    step = jax.checkpoint(step, policy=REMAT[remat], prevent_cse=not is_scanned)
  stacked = (arrays, per_layer)
  if is_scanned:
    return jax.lax.scan(step, carry, stacked)
  outputs = []
  for layer in _unstack(stacked, jax.tree.leaves(arrays)[0].shape[0]):
    carry, output = step(carry, layer)
    outputs.append(output)
  if not outputs:
    return carry, None
  return carry, jax.tree.map(lambda *xs: jnp.stack(xs), *outputs)


def unroll(model: B) -> B:
  """The model with its stacks taken apart, for a loop that runs them often.

  In a loop, a layer's part of a stacked array is copied out at every turn;
  here that is done once, before. It costs those arrays a second time.

  Args:
    model: of any family; it stays as it is.
  """
  model = nnx.clone(model)
  for _, node in list(nnx.iter_graph(model)):
    if not isinstance(node, nnx.Module) or getattr(node, STACKED, False):
      continue
    for name, child in list(vars(node).items()):
      if getattr(child, STACKED, False):
        graphdef, arrays = nnx.split(child)
        depth = jax.tree.leaves(arrays)[0].shape[0]
        blocks = [nnx.merge(graphdef, x) for x in _unstack(arrays, depth)]
        for block in blocks:
          setattr(block, STACKED, False)
        setattr(node, name, Unrolled(blocks))
  return model


def cut(tree: Any) -> Any:
  """Arrays [layers, ...] as `Layers`, for what `unroll` gave."""
  return jax.tree.map(lambda x: Layers(tuple(_unstack(x, x.shape[0]))), tree)


def _unstack(tree: Any, depth: int) -> list[Any]:
  """A tree for each layer; arrays are cut along their first axis.

  By split, whose gradient is one concatenation; that of indexing would be a
  sum of as many arrays as there are layers, each of the whole's size.
  """
  leaves, structure = jax.tree.flatten(
    tree, is_leaf=lambda x: isinstance(x, Layers)
  )
  columns = [
    leaf.items
    if isinstance(leaf, Layers)
    else [jax.lax.squeeze(x, (0,)) for x in jax.lax.split(leaf, [1] * depth)]
    for leaf in leaves
  ]
  return [
    jax.tree.unflatten(structure, [column[layer] for column in columns])
    for layer in range(depth)
  ]
