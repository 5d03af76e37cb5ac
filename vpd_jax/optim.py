"""Optimizers, schedules, and which parameters train."""

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from vpd_jax import step, trees
from vpd_jax.models import quantized

# Arrays of these names are vectors, also where a stack's lie together.
VECTORS = ("scale", "bias")
FLOATS = ("float32", "bfloat16", "float16")


class Optimizer(NamedTuple):
  """What `make` makes.

  Attributes:
    tx: for the trained parameters alone.
    schedule: step -> learning rate.
    partition: parameters, or their shapes -> (trained, frozen).
    accumulate, ema_decay: as in `step.train_step`.
  """

  tx: optax.GradientTransformation
  schedule: optax.Schedule
  partition: Callable[[Any], tuple[Any, Any]]
  accumulate: int
  ema_decay: float


def make(
  *,
  total_steps: int,
  lr: float,
  name: str = "adamw",
  schedule: str = "cosine",
  warmup_steps: int = 0,
  final_lr_share: float | None = None,
  rsqrt_steps: int | None = None,
  b1: float | None = None,
  b2: float | None = None,
  eps: float | None = None,
  momentum: float | None = None,
  momentum_dtype: str | None = None,
  moments_dtype: str | None = None,
  decay_rate: float | None = None,
  clip_update_rms: float | None = None,
  scale_by_params: bool | None = None,
  min_factored: int | None = None,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  accumulate: int = 1,
  ema_decay: float = 0.0,
  train: Sequence[str] = ("",),
  freeze: Sequence[str] = (),
  frozen_dtype: str = "float32",
) -> Optimizer:
  """An optimizer behind global-norm clipping, on a schedule with warm-up.

  Args:
    total_steps: where the schedule ends.
    lr: the peak.
    name: of OPTIMIZERS.
    schedule: of SCHEDULES, after the warm-up.
    warmup_steps: linear from 0 to the peak.
    final_lr_share, rsqrt_steps: of the schedule, see there. None: as it says.
    b1, b2, eps, momentum, momentum_dtype, moments_dtype, decay_rate,
      clip_update_rms, scale_by_params, min_factored: of the optimizer, see
      there; only those that it takes. None: as it says.
    weight_decay: decoupled, on matrices only, not on scales and biases.
    clip_norm: of all trained gradients together; 0 for none.
    accumulate: parts that a batch is cut into, one after the other.
    ema_decay: of the moving average of parameters that is evaluated; 0: none.
    train: regular expressions; a parameter trains if one matches its path
      from the start.
    freeze: the like; these do not train, whatever `train` says.
    frozen_dtype: that frozen matrices are kept in. "int8" or "nf4": kernels
      of projections are, see `models.quantized`; the others stay float32.

  Raises:
    ValueError: if the warm-up is longer than the run, a number is out of
      range, an option is not of the optimizer or schedule chosen, or the
      dtype is unknown. `partition` raises one if a pattern matches no
      parameter, nothing would train, or a kernel cannot be quantized.
    KeyError: for an unknown optimizer or schedule; lists those that exist.
    ImportError: if the dtype needs qwix and it is not installed.

  Source: Hu et al., arXiv:2312.03052, appendix B.3 (betas, cosine, warm-up).
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"optim.warmup_steps={warmup_steps} must be below total_steps="
      f"{total_steps}."
    )
  if accumulate < 1 or not 0 <= ema_decay < 1:
    raise ValueError(
      f"optim.accumulate={accumulate}, ema_decay={ema_decay}: expected at least"
      " 1, and a share from 0 to below 1."
    )
  if frozen_dtype not in (*FLOATS, *quantized.DTYPES):
    raise ValueError(
      f"optim.frozen_dtype={frozen_dtype!r} is none of"
      f" {[*FLOATS, *quantized.DTYPES]}."
    )
  if frozen_dtype in quantized.DTYPES:
    quantized.library()
  after_warmup = _chosen(
    SCHEDULES,
    "schedule",
    schedule,
    {"final_lr_share": final_lr_share, "rsqrt_steps": rsqrt_steps},
  )
  of_step = after_warmup(lr, warmup_steps, total_steps)
  scale = _chosen(
    OPTIMIZERS,
    "name",
    name,
    {
      "b1": b1,
      "b2": b2,
      "eps": eps,
      "momentum": momentum,
      "momentum_dtype": momentum_dtype,
      "moments_dtype": moments_dtype,
      "decay_rate": decay_rate,
      "clip_update_rms": clip_update_rms,
      "scale_by_params": scale_by_params,
      "min_factored": min_factored,
    },
  )
  tx = optax.chain(
    *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
    scale(),
    optax.add_decayed_weights(weight_decay, matrices),
    optax.scale_by_learning_rate(of_step),
  )

  def partition(params):
    is_trained = jax.tree.map(
      lambda trained, frozen: trained and not frozen,
      trees.mask(params, train),
      trees.mask(params, freeze),
    )
    if not any(jax.tree.leaves(is_trained)):
      raise ValueError(
        f"optim.train={list(train)} and freeze={list(freeze)} leave nothing to"
        " train."
      )
    trained, frozen = step.split(params, is_trained)
    if frozen_dtype in quantized.DTYPES:
      return trained, quantized.kernels(frozen, frozen_dtype)
    return trained, _cast(frozen, jnp.dtype(frozen_dtype))

  return Optimizer(tx, of_step, partition, accumulate, ema_decay)


def _adamw(
  *,
  b1: float = 0.9,
  b2: float = 0.98,
  eps: float = 1e-8,
  moments_dtype: str = "float32",
) -> optax.GradientTransformation:
  """Adam's two moments; VPD uses 0.9 and 0.98.

  `moments_dtype`: that both are kept in between steps. "bfloat16" halves them;
  each step computes in float32 and rounds up or down by chance, so that small
  changes are not lost: to the nearest, a moment of b2 = 0.999 would never
  shrink, for a step changes it by less than half of its last place.

  Source: Kingma and Ba, arXiv:1412.6980; for the rounding Gupta et al.,
  arXiv:1502.02551.
  """
  if moments_dtype not in ("float32", "bfloat16"):
    raise ValueError(
      f"optim.moments_dtype={moments_dtype!r} is neither 'float32' nor"
      " 'bfloat16'."
    )
  adam = optax.scale_by_adam(b1, b2, eps)
  if moments_dtype == "float32":
    return adam

  def with_moments_in(dtype, state) -> optax.ScaleByAdamState:
    mu, nu = (optax.tree.cast(x, dtype) for x in (state.mu, state.nu))
    return state._replace(mu=mu, nu=nu)

  def init(params):
    return with_moments_in(jnp.bfloat16, adam.init(params))

  def update(updates, state, params=None):
    exact = with_moments_in(jnp.float32, state)
    updates, after = adam.update(updates, exact, params)
    exact = cast(optax.ScaleByAdamState, after)
    # Of the step's number alone: a resumed run draws what an unbroken one does.
    key = jax.random.fold_in(jax.random.key(0), exact.count)
    mu, structure = jax.tree.flatten(exact.mu)
    keys = jax.random.split(key, len(mu))
    pairs = [
      _rounded(*given)
      for given in zip(keys, mu, jax.tree.leaves(exact.nu), strict=True)
    ]
    mu, nu = (
      jax.tree.unflatten(structure, moment)
      for moment in zip(*pairs, strict=True)
    )
    return updates, exact._replace(mu=mu, nu=nu)

  return optax.GradientTransformation(init, update)


def _rounded(
  key: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Two float32 arrays of a shape in bfloat16, by chance up or down.

  Without bias: the nearer neighbour is the likelier, so the mean is the number.
  """
  # Half of a draw's bits for each. What is added is under a last place.
  draw = jax.random.bits(key, a.shape, jnp.uint32)

  def rounded(x, noise):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    kept = jax.lax.bitcast_convert_type(
      bits & jnp.uint32(0xFFFF0000), jnp.float32
    )
    return kept.astype(jnp.bfloat16)

  return rounded(a, draw >> 16), rounded(b, draw & jnp.uint32(0xFFFF))


def _lion(
  *, b1: float = 0.9, b2: float = 0.99, momentum_dtype: str = "float32"
) -> optax.GradientTransformation:
  """The sign of one moment. Source: Chen et al., arXiv:2302.06675."""
  return optax.scale_by_lion(b1, b2, jnp.dtype(momentum_dtype))


def _adafactor(
  *,
  decay_rate: float = 0.8,
  b2: float = 0.999,
  eps: float = 1e-30,
  momentum: float = 0.9,
  momentum_dtype: str = "bfloat16",
  clip_update_rms: float = 0.0,
  scale_by_params: bool = False,
  min_factored: int = 128,
) -> optax.GradientTransformation:
  """A second moment kept as sums over rows and over columns.

  Options: `decay_rate`: after t steps the second moment keeps 1 - t**-rate of
  itself, at most `b2`; `momentum`: 0 for none; `clip_update_rms`: of each
  array's update, 0 for none; `scale_by_params`: updates grow with the array's
  own size; `min_factored`: arrays whose two longest sides are shorter than it
  keep the whole moment.

  Source: Shazeer and Stern, arXiv:1804.04235; the defaults are those of Zhai
  et al., Scaling Vision Transformers, arXiv:2106.04560, section 3.4, and of
  big_vision, where the PaLIs come from.
  """

  def decay(count, rate):
    t = jnp.asarray(count + 1, jnp.float32)
    return jnp.minimum(b2, 1.0 - t**-rate)

  chain = [
    optax.scale_by_factored_rms(
      decay_rate=decay_rate,
      decay_rate_fn=decay,
      epsilon=eps,
      min_dim_size_to_factor=min_factored,
    )
  ]
  if clip_update_rms:
    chain.append(optax.clip_by_block_rms(clip_update_rms))
  if scale_by_params:
    chain.append(optax.scale_by_param_block_rms())
  if momentum:
    dtype = jnp.dtype(momentum_dtype)
    chain.append(optax.ema(momentum, debias=False, accumulator_dtype=dtype))
  return optax.chain(*chain)


def _cosine(
  lr: float,
  warmup_steps: int,
  total_steps: int,
  *,
  final_lr_share: float = 0.0,
) -> optax.Schedule:
  """Half a cosine, down to a share of the peak at the end."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup_steps else lr,
    peak_value=lr,
    warmup_steps=warmup_steps,
    decay_steps=total_steps,
    end_value=lr * final_lr_share,
  )


def _rsqrt(
  lr: float,
  warmup_steps: int,
  total_steps: int,
  *,
  rsqrt_steps: int = 0,
) -> optax.Schedule:
  """lr / sqrt(1 + t / rsqrt_steps), t steps after the warm-up.

  0: as long as the warm-up, which gives T5's, lr * sqrt(warmup_steps / step).
  """
  del total_steps
  scale = rsqrt_steps or warmup_steps
  if scale < 1:
    raise ValueError(
      "optim.schedule='rsqrt' without a warm-up needs optim.rsqrt_steps, the"
      " number of steps in which the rate falls to 0.71 of the peak."
    )

  def decayed(t):
    return lr * (1 + jnp.maximum(t, 0) / scale) ** -0.5

  return _warmed(lr, warmup_steps, decayed)


def _constant(lr: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
  """The peak, once it is reached."""
  del total_steps
  return _warmed(lr, warmup_steps, optax.constant_schedule(lr))


def _warmed(
  lr: float, warmup_steps: int, after: optax.Schedule
) -> optax.Schedule:
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, lr, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = (
  types.MappingProxyType(
    {"adamw": _adamw, "adafactor": _adafactor, "lion": _lion}
  )
)
SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = types.MappingProxyType(
  {"cosine": _cosine, "rsqrt": _rsqrt, "constant": _constant}
)


def _chosen(
  table: Mapping[str, Callable[..., Any]],
  key: str,
  name: str,
  options: Mapping[str, Any],
) -> Callable[..., Any]:
  """The entry of that name, with those of the options that were given."""
  if name not in table:
    raise KeyError(
      f"optim.{key}={name!r} is unknown; there are {sorted(table)}."
    )
  given = {k: value for k, value in options.items() if value is not None}
  parameters = inspect.signature(table[name]).parameters.values()
  known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
  for option in given:
    if option not in known:
      raise ValueError(
        f"optim.{option} is no option of optim.{key}={name!r}, which takes"
        f" {known or 'none of its own'}."
      )
  return functools.partial(table[name], **given)


def matrices(params: Any) -> Any:
  """A tree of bools: is a parameter a matrix, or a stack of them?"""
  named = trees.flatten_with_names(params)
  pattern = rf"(.*/)?({'|'.join(VECTORS)})$"
  is_matrix = {
    name: leaf.ndim > 1 and not re.match(pattern, name)
    for name, leaf in named.items()
  }
  return trees.unflatten_like(params, is_matrix)


def _cast(params: Any, dtype: Any) -> Any:
  def cast(leaf, is_matrix):
    if not is_matrix:
      return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return leaf.update(dtype=dtype)
    return leaf.astype(dtype)

  return jax.tree.map(cast, params, matrices(params))
