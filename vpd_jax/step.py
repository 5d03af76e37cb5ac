"""TrainState, and the train step as a pure function of (state, batch)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Params = dict[str, Any]
Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
  """All that a run carries from step to step.

  Attributes:
    step: int32[], how many steps were taken.
    params: nested dict of arrays.
    opt_state: of the optax chain.
  """

  step: jax.Array
  params: Params
  opt_state: Any


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
  """The model with these parameters, for use inside a jitted function."""
  return nnx.merge(graphdef, nnx.State(params))


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  graphdef: nnx.GraphDef,
  tx: optax.GradientTransformation,
  loss: Loss,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update.

  Args:
    state: before the step.
    batch: the arrays that the loss asks for.
    graphdef: the model's structure, from `nnx.split`.
    tx: from `optim.make`.
    loss: (model, batch) -> (loss float32[], metrics).

  Returns:
    (state after the step, metrics float32[] each, with the gradient's norm).
  """

  def of_params(params):
    return loss(merge(graphdef, params), batch)

  grads, metrics = jax.grad(of_params, has_aux=True)(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = cast(Params, optax.apply_updates(state.params, updates))
  metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
  return TrainState(state.step + 1, params, opt_state), metrics


def compile_train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  **parts: Any,
) -> jax.stages.Compiled:
  """`train_step` compiled for these shapes and shardings.

  Args:
    state, batch: arrays, or ShapeDtypeStructs with shardings.
    **parts: graphdef, tx and loss of `train_step`.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step = jax.jit(
    functools.partial(train_step, **parts),
    donate_argnums=0,
    out_shardings=(shardings, None),
  )
  return step.lower(state, batch).compile()
