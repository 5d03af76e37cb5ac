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
    params: nested dict of arrays, those that train.
    opt_state: of the optax chain, for these.
    frozen: nested dict of the other parameters; they have no gradient.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  frozen: Params

  @property
  def all_params(self) -> Params:
    """The model's parameters, trained and frozen."""
    return join(self.params, self.frozen)


def split(tree: Params, mask: Params) -> tuple[Params, Params]:
  """Nested dicts of the leaves where `mask` is True, and of the others."""
  hits, rest = {}, {}
  for key, value in tree.items():
    if isinstance(value, dict):
      inner = split(value, mask[key])
    else:
      inner = (value, None) if mask[key] else (None, value)
    for out, part in zip((hits, rest), inner, strict=True):
      if part is not None and not (isinstance(part, dict) and not part):
        out[key] = part
  return hits, rest


def join(a: Params, b: Params) -> Params:
  """Nested dicts of the leaves of both, which have none in common."""
  out = dict(a)
  for key, value in b.items():
    out[key] = join(out[key], value) if key in out else value
  return out


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
  """The model with these parameters, for use inside a jitted function."""
  return nnx.merge(graphdef, nnx.State(params))


def init_state(
  params: Params,
  tx: optax.GradientTransformation,
  frozen: Params | None = None,
) -> TrainState:
  """The state before the first step; None: no parameter is frozen."""
  opt_state = tx.init(params)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state, frozen or {})


def train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  graphdef: nnx.GraphDef,
  tx: optax.GradientTransformation,
  loss: Loss,
  seed: int = 0,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update.

  Args:
    state: before the step.
    batch: the arrays that the loss asks for.
    graphdef: the model's structure, from `nnx.split`.
    tx: from `optim.make`.
    loss: (model, batch, key) -> (loss float32[], metrics).
    seed: of dropout; with the step's number it gives the key, so a resumed
      run draws what an unbroken one would.

  Returns:
    (state after the step, metrics float32[] each, with the gradient's norm).
  """

  key = jax.random.fold_in(jax.random.key(seed), state.step)

  def of_params(params):
    model = merge(graphdef, join(params, state.frozen))
    return loss(model, batch, key)

  # Frozen parameters are closed over: nothing is computed for them.
  grads, metrics = jax.grad(of_params, has_aux=True)(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = cast(Params, optax.apply_updates(state.params, updates))
  metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
  state = TrainState(state.step + 1, params, opt_state, state.frozen)
  return state, metrics


def compile_train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  **parts: Any,
) -> jax.stages.Compiled:
  """`train_step` compiled for these shapes and shardings.

  Args:
    state, batch: arrays, or ShapeDtypeStructs with shardings.
    **parts: graphdef, tx, loss and seed of `train_step`.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step = jax.jit(
    functools.partial(train_step, **parts),
    donate_argnums=0,
    out_shardings=(shardings, None),
  )
  return step.lower(state, batch).compile()
