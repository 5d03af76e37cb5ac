"""TrainState, and the train step as a pure function of (state, batch)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Params = dict[str, Any]
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Loss = Callable[..., tuple[jax.Array, Metrics]]
Totals = Callable[[Batch], Mapping[str, jax.Array]]


class TrainState(NamedTuple):
  """All that a run carries from step to step.

  Attributes:
    step: int32[], how many steps were taken.
    params: nested dict of arrays, those that train.
    opt_state: of the optax chain, for these.
    frozen: nested dict of the other parameters; they have no gradient.
    ema: a moving average of `params`, or {} where none is kept.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  frozen: Params
  ema: Params = {}

  @property
  def all_params(self) -> Params:
    """The model's parameters, trained and frozen."""
    return join(self.params, self.frozen)

  @property
  def eval_params(self) -> Params:
    """The parameters to evaluate: averages where they are kept."""
    return join(self.ema or self.params, self.frozen)


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
  *,
  has_ema: bool = False,
) -> TrainState:
  """The state before the first step.

  Args:
    params: those that train.
    tx: from `optim.make`.
    frozen: the others; None: there are none.
    has_ema: whether a moving average is kept; it starts at `params`.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    frozen=frozen or {},
    # Copied: a step may write over the state it is given, array by array.
    ema=jax.tree.map(jnp.copy, params) if has_ema else {},
  )


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  graphdef: nnx.GraphDef,
  tx: optax.GradientTransformation,
  loss: Loss,
  totals: Totals | None = None,
  seed: int = 0,
  accumulate: int = 1,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """One update.

  Args:
    state: before the step.
    batch: the arrays that the loss asks for.
    graphdef: the model's structure, from `nnx.split`.
    tx: from `optim.make`.
    loss: (model, batch, key) -> (loss float32[], metrics); takes `totals` by
      name where they are given.
    totals: of the module of the loss: what a batch's loss is divided by.
    seed: of dropout; with the step's number it gives the key, so a resumed
      run draws what an unbroken one would.
    accumulate: into how many parts the batch is cut, whose gradients are added
      one after the other; each part spans all devices. 1: it stays whole.
    ema_decay: how much of its moving average stays; 0: it is left as it is.

  Returns:
    (state after the step, metrics float32[] each, with the gradient's norm).

  Raises:
    ValueError: if the batch does not divide, parts have no `totals`, or there
      is no moving average to update.
  """
  if accumulate > 1 and totals is None:
    raise ValueError(f"{accumulate=} needs the loss's totals: parts of a batch")
  if ema_decay and not state.ema:
    raise ValueError(f"{ema_decay=}, but the state has no moving average.")
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  shared = {} if totals is None else {"totals": totals(batch)}

  def gradients(batch, key):
    def of_params(params):
      model = merge(graphdef, join(params, state.frozen))
      return loss(model, batch, key, **shared)

    # Frozen parameters are closed over: nothing is computed for them.
    return jax.grad(of_params, has_aux=True)(state.params)

  if accumulate == 1:
    grads, metrics = gradients(batch, key)
  else:
    grads, metrics = _accumulated(
      gradients, state.params, cut_batch(batch, accumulate), key
    )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = cast(Params, optax.apply_updates(state.params, updates))
  ema = state.ema
  if ema_decay:
    ema = cast(Params, optax.incremental_update(params, ema, 1.0 - ema_decay))
  metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
  return TrainState(
    state.step + 1, params, opt_state, state.frozen, ema
  ), metrics


def cut_batch(batch: Batch, parts: int) -> Batch:
  """Arrays [rows, ...] as [parts, rows / parts, ...].

  Every part has every so many-th image with all of its questions, so each
  device has its share of each. With 4 images, 2 questions each, 2 parts:

      image     0 1 2 3            -> 0 2     1 3
      question  0 0 1 1 2 2 3 3    -> 0 0 2 2     1 1 3 3

  Args:
    batch: arrays whose leading axes are multiples of the shortest.
    parts: how many.

  Raises:
    ValueError: if the shortest leading axis does not divide.
  """
  groups = min(x.shape[0] for x in jax.tree.leaves(batch))
  if groups % parts:
    fitting = [n for n in range(1, groups + 1) if groups % n == 0]
    raise ValueError(
      f"optim.accumulate={parts} does not divide a batch of {groups}"
      f" images; {fitting} do."
    )

  def cut(x):
    per_group = x.shape[0] // groups
    x = x.reshape(groups // parts, parts, per_group, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(parts, -1, *x.shape[3:])

  return jax.tree.map(cut, batch)


def _accumulated(
  gradients: Callable[..., tuple[Params, Metrics]],
  params: Params,
  parts: Batch,
  key: jax.Array,
) -> tuple[Params, Metrics]:
  """Sums over parts of a batch, which drop out differently."""

  def add(total, numbered):
    number, part = numbered
    grads, metrics = gradients(part, jax.random.fold_in(key, number))
    return jax.tree.map(jnp.add, total, grads), metrics

  count = jax.tree.leaves(parts)[0].shape[0]
  grads, metrics = jax.lax.scan(
    add, jax.tree.map(jnp.zeros_like, params), (jnp.arange(count), parts)
  )
  return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def compile_train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  **parts: Any,
) -> jax.stages.Compiled:
  """`train_step` compiled for these shapes and shardings.

  Args:
    state, batch: arrays, or ShapeDtypeStructs with shardings.
    **parts: graphdef, tx, loss and the other options of `train_step`.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step = jax.jit(
    functools.partial(train_step, **parts),
    donate_argnums=0,
    out_shardings=(shardings, None),
  )
  return step.lower(state, batch).compile()
