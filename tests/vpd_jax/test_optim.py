"""Schedules, clipping, decay and freezing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax import optim, step, trees


def test_schedule_warms_up_and_decays():
  schedule = optim.make(
    total_steps=100,
    lr=1.0,
    warmup_steps=10,
    final_lr_share=0.1,
  ).schedule
  values = [float(schedule(s)) for s in (0, 5, 10, 55, 100)]
  np.testing.assert_allclose(values, [0, 0.5, 1, 0.55, 0.1], atol=1e-6)


def test_warm_up_longer_than_the_run_is_refused():
  with pytest.raises(ValueError, match=r"warmup_steps=10.*total_steps=10"):
    optim.make(total_steps=10, lr=1.0, warmup_steps=10)


def test_inverse_square_root_is_t5s_where_the_warm_up_says_how_long():
  schedule = optim.make(
    total_steps=1000, lr=1.0, schedule="rsqrt", warmup_steps=100
  ).schedule
  values = [float(schedule(s)) for s in (0, 50, 100, 400, 900)]
  np.testing.assert_allclose(values, [0, 0.5, 1, 1 / 2, 1 / 3], rtol=1e-6)
  slower = optim.make(
    total_steps=1000, lr=2.0, schedule="rsqrt", rsqrt_steps=300
  ).schedule
  values = [float(slower(s)) for s in (0, 300, 900)]
  np.testing.assert_allclose(values, [2, 2 / 2**0.5, 1], rtol=1e-6)


def test_constant_is_constant_once_it_is_warm():
  schedule = optim.make(
    total_steps=10, lr=3.0, schedule="constant", warmup_steps=3
  ).schedule
  values = [float(schedule(s)) for s in (0, 1, 3, 9)]
  np.testing.assert_allclose(values, [0, 1, 3, 3], rtol=1e-6)


def _step_of(name, gradient, steps=1, **options):
  """The last of some equal updates of one matrix at 1."""
  tx = optim.make(
    total_steps=10,
    lr=1.0,
    name=name,
    schedule="constant",
    clip_norm=0.0,
    **options,
  ).tx
  params = {"w": jnp.ones(gradient.shape)}
  state = tx.init(params)
  updates = None
  for _ in range(steps):
    updates, state = tx.update({"w": gradient}, state, params)
  assert updates is not None
  return np.asarray(updates["w"]), state


def test_lion_steps_by_the_sign():
  gradient = jnp.array([[0.1, -20.0], [0.0, 3.0]])
  updates, _ = _step_of("lion", gradient)
  np.testing.assert_array_equal(updates, [[-1, 1], [0, -1]])
  decayed, _ = _step_of("lion", gradient, weight_decay=0.5)
  np.testing.assert_allclose(decayed, updates - 0.5, rtol=1e-6)


def test_adafactor_divides_by_rows_and_columns():
  # The first step's second moment is the gradient's square itself; of rank
  # one, it is its rows times its columns, and all updates are equal.
  gradient = jnp.outer(jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 5.0]))
  options = {"min_factored": 2, "momentum": 0.0}
  updates, state = _step_of("adafactor", gradient, **options)
  np.testing.assert_allclose(updates, -np.ones((3, 2)), rtol=1e-5)
  sizes = [x.size for x in jax.tree.leaves(state) if x.ndim]
  assert sorted(sizes) == [1, 2, 3]  # One stands for the moment not kept.
  whole, state = _step_of("adafactor", gradient, momentum=0.0)
  np.testing.assert_allclose(whole, -np.ones((3, 2)), rtol=1e-5)
  assert max(x.size for x in jax.tree.leaves(state)) == 6


def test_adafactors_momentum_is_half_as_wide():
  gradient = jnp.ones((4, 4))
  updates, state = _step_of("adafactor", gradient)
  np.testing.assert_allclose(updates, -0.1 * np.ones((4, 4)), rtol=1e-2)
  dtypes = [str(x.dtype) for x in jax.tree.leaves(state) if x.size == 16]
  assert sorted(dtypes) == ["bfloat16", "float32"]
  options = {"momentum_dtype": "float32"}
  _, state = _step_of("adafactor", gradient, **options)
  dtypes = {str(x.dtype) for x in jax.tree.leaves(state) if x.size == 16}
  assert dtypes == {"float32"}


def test_adafactor_may_clip_and_scale_by_parameters():
  gradient = jnp.full((4, 4), 1.0)
  plain, _ = _step_of("adafactor", gradient, momentum=0.0)
  clipped, _ = _step_of(
    "adafactor", gradient, momentum=0.0, clip_update_rms=0.25
  )
  np.testing.assert_allclose(clipped, 0.25 * plain, rtol=1e-5)
  tx = optim.make(
    total_steps=10,
    lr=1.0,
    name="adafactor",
    schedule="constant",
    momentum=0.0,
    scale_by_params=True,
  ).tx
  params = {"w": jnp.full((4, 4), 3.0)}
  updates, _ = tx.update({"w": gradient}, tx.init(params), params)
  np.testing.assert_allclose(updates["w"], 3.0 * plain, rtol=1e-5)


def test_adafactors_memory_of_the_second_moment_has_a_cap():
  # After many steps of 1 and one of 10: kept at most b2 of the old moment.
  tx = optim.make(
    total_steps=10_000,
    lr=1.0,
    name="adafactor",
    schedule="constant",
    clip_norm=0.0,
    momentum=0.0,
    b2=0.5,
  ).tx
  params = {"w": jnp.ones((1, 1))}
  state = tx.init(params)
  for value in (1.0, 1.0, 1.0, 1.0, 10.0):
    updates, state = tx.update({"w": jnp.full((1, 1), value)}, state, params)
  np.testing.assert_allclose(updates["w"], -10 / 50.5**0.5, rtol=1e-4)


@functools.cache
def _moments(dtype, b2, drop_after, steps):
  """Adam's second moment and update after gradients that fall to a tenth."""
  tx = optim.OPTIMIZERS["adamw"](b2=b2, moments_dtype=dtype)
  params = {"w": jnp.zeros((64, 64))}

  def one(state, number):
    draw = jax.random.normal(jax.random.key(number), (64, 64))
    scale = jnp.where(number < drop_after, 1.0, 0.1)
    updates, state = tx.update({"w": draw * scale}, state, params)
    return state, updates["w"]

  state, updates = jax.lax.scan(one, tx.init(params), jnp.arange(steps))
  return state, updates[-1]


def test_adams_moments_may_be_half_as_wide():
  params = {"w": jnp.zeros((4, 4)), "v": jnp.zeros(3)}
  whole, half = (
    optim.make(total_steps=10, lr=1.0, moments_dtype=dtype).tx.init(params)
    for dtype in (None, "bfloat16")
  )
  assert jax.tree.structure(whole) == jax.tree.structure(half)
  sizes = [
    sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim)
    for state in (whole, half)
  ]
  assert sizes == [2 * 4 * 19, 2 * 2 * 19]


@pytest.mark.parametrize("b2", [0.98, 0.999])
def test_moments_rounded_by_chance_follow_the_exact_ones(b2):
  """Rounded to the nearest, b2 = 0.999 ends some 40 times too high."""
  steps = round(6 / (1 - b2))
  exact, rounded = (
    _moments(dtype, b2, steps // 3, steps) for dtype in ("float32", "bfloat16")
  )
  assert rounded[0].nu["w"].dtype == rounded[0].mu["w"].dtype == jnp.bfloat16
  for moment, tolerance in (("mu", 2e-4), ("nu", 1e-2)):
    a, b = (
      np.asarray(getattr(x[0], moment)["w"], np.float64)
      for x in (exact, rounded)
    )
    # Without bias: 4096 numbers, each off by a few hundredths.
    scale = np.abs(a).mean()
    assert abs(np.mean(b - a)) < tolerance * scale, moment
    assert 0 < np.abs(b - a).mean() < 0.1 * scale, moment
  off = jnp.abs(exact[1] - rounded[1]).mean() / jnp.abs(exact[1]).mean()
  assert off < 0.05


def test_rounding_by_chance_is_of_the_step_alone():
  """So that a resumed run is the unbroken one; and steps round differently."""
  tx = optim.OPTIMIZERS["adamw"](moments_dtype="bfloat16")
  params = {"w": jnp.zeros((64, 64)), "x": jnp.zeros((64, 64))}
  grads = jax.tree.map(lambda x: x + 1.001, params)
  _, first = tx.update(grads, tx.init(params))
  _, again = tx.update(grads, tx.init(params))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  later = tx.init(params)._replace(count=jnp.array(1, jnp.int32))
  _, other = tx.update(grads, later)
  for a, b in (
    (first.mu["w"], other.mu["w"]),
    (first.mu["w"], first.mu["x"]),
  ):
    assert bool((a != b).any())


def test_two_equal_moments_are_rounded_apart():
  tx = optim.OPTIMIZERS["adamw"](b1=0.9, b2=0.9, moments_dtype="bfloat16")
  ones = {"w": jnp.ones((64, 64))}
  _, state = tx.update(ones, tx.init(ones))
  # Both are 0.1, between two numbers of bfloat16.
  for moment in (state.mu["w"], state.nu["w"]):
    np.testing.assert_allclose(moment.astype(jnp.float32), 0.1, rtol=1e-2)
  assert bool((state.mu["w"] != state.nu["w"]).any())


def test_rounding_by_chance_does_not_depend_on_where_arrays_lie():
  tx = optim.OPTIMIZERS["adamw"](moments_dtype="bfloat16")
  grads = {"w": jax.random.normal(jax.random.key(0), (16, 24))}
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
  cut = jax.NamedSharding(mesh, jax.P("fsdp", "data"))
  after = [
    jax.jit(tx.update)(x, tx.init(x))
    for x in (grads, jax.device_put(grads, cut))
  ]
  assert after[1][1].nu["w"].sharding == cut
  jax.tree.map(np.testing.assert_array_equal, *after)


def _params():
  """A stack of two blocks, a head, and the vectors that go with them."""
  return {
    "blocks": {
      "kernel": jnp.ones((2, 3, 5)),
      "bias": jnp.ones((2, 5)),
      "norm": {"scale": jnp.ones((2, 3))},
    },
    "head": {"kernel": jnp.ones((3, 7)), "bias": jnp.ones(7)},
    "positions": jnp.ones((4, 3)),
  }


def test_decay_pulls_matrices_and_leaves_vectors_stacked_or_not():
  params = _params()
  grads = jax.tree.map(jnp.zeros_like, params)
  tx = optim.make(total_steps=10, lr=0.1, weight_decay=0.5).tx
  updates, _ = tx.update(grads, tx.init(params), params)
  named = trees.flatten_with_names(updates)
  moved = {n for n, x in named.items() if float(jnp.abs(x).max()) > 0}
  assert moved == {"blocks/kernel", "head/kernel", "positions"}
  for name in moved:
    np.testing.assert_allclose(named[name], -0.1 * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
  "options,trained",
  [
    ({}, {"blocks", "head", "positions"}),
    ({"freeze": ("blocks/",)}, {"head", "positions"}),
    ({"train": ("blocks/", "head/")}, {"blocks", "head"}),
    ({"train": ("blocks/", "head/"), "freeze": ("head",)}, {"blocks"}),
  ],
)
def test_patterns_part_trained_from_frozen(options, trained):
  params = _params()
  optimizer = optim.make(total_steps=10, lr=0.1, **options)
  ours, rest = optimizer.partition(params)
  assert set(ours) == trained and set(rest) == set(params) - trained
  jax.tree.map(np.testing.assert_array_equal, step.join(ours, rest), params)
  # Adam's two moments of what trains, and its count and the schedule's.
  state = optimizer.tx.init(ours)
  size = sum(x.size for x in jax.tree.leaves(ours))
  assert sum(x.size for x in jax.tree.leaves(state)) == 2 * size + 2


def test_one_leaf_of_a_module_may_train_alone():
  optimizer = optim.make(total_steps=10, lr=0.1, train=(".*/bias",))
  trained, frozen = optimizer.partition(_params())
  assert set(trees.flatten_with_names(trained)) == {"blocks/bias", "head/bias"}
  assert set(frozen["blocks"]) == {"kernel", "norm"}


def test_frozen_matrices_are_kept_in_the_dtype_that_is_asked_for():
  params = _params()
  shapes = jax.eval_shape(lambda: params)
  options = {"freeze": ("blocks",), "frozen_dtype": "bfloat16"}
  partition = optim.make(total_steps=10, lr=0.1, **options).partition
  for tree in (params, shapes):
    trained, frozen = partition(tree)
    assert {str(x.dtype) for x in jax.tree.leaves(trained)} == {"float32"}
    dtypes = {
      n: str(x.dtype) for n, x in frozen["blocks"].items() if n[0] != "n"
    }
    assert dtypes == {"kernel": "bfloat16", "bias": "float32"}
    assert frozen["blocks"]["norm"]["scale"].dtype == jnp.float32


@pytest.mark.parametrize(
  "options,message",
  [
    ({"freeze": ("haed/",)}, r"'haed/' matches no array.*blocks/"),
    ({"train": ("haed/",)}, r"'haed/' matches no array.*blocks/"),
    ({"train": ("head",), "freeze": ("head",)}, "leave nothing to train"),
    ({"train": ()}, "leave nothing to train"),
    ({"frozen_dtype": "int4"}, r"frozen_dtype='int4' is none of"),
    ({"name": "adamm"}, r"optim.name='adamm' is unknown.*'adamw', 'lion'"),
    ({"schedule": "cos"}, r"optim.schedule='cos' is unknown.*'cosine'"),
    (
      {"name": "lion", "decay_rate": 0.8},
      r"decay_rate is no option of optim.name='lion', which takes \['b1', 'b2'",
    ),
    (
      {"schedule": "constant", "final_lr_share": 0.1},
      r"final_lr_share is no option of .*'constant', which takes none",
    ),
    ({"schedule": "rsqrt"}, r"needs optim.rsqrt_steps"),
    ({"moments_dtype": "float16"}, r"optim.moments_dtype='float16' is neither"),
    (
      {"name": "lion", "moments_dtype": "bfloat16"},
      r"moments_dtype is no option of optim.name='lion'",
    ),
    ({"accumulate": 0}, r"optim.accumulate=0"),
    ({"ema_decay": 1.0}, r"ema_decay=1.0"),
  ],
)
def test_what_a_user_gets_wrong_is_named(options, message):
  with pytest.raises((ValueError, KeyError), match=message):
    optim.make(total_steps=10, lr=0.1, **options).partition(_params())


def test_clipping_is_of_all_gradients_together():
  params = {"a": jnp.zeros((1, 1)), "b": jnp.zeros((1, 1))}
  small = {"a": jnp.full((1, 1), 0.3), "b": jnp.full((1, 1), 0.4)}
  large = jax.tree.map(lambda g: g * 100, small)
  tx = optim.make(total_steps=10, lr=0.1, clip_norm=0.5).tx
  for grads in (small, large):
    _, after = tx.update(grads, tx.init(params), params)
    # First moment: 0.1 of the clipped gradient, whose norm is 0.5.
    moments = [float(after[1].mu[k][0, 0]) for k in ("a", "b")]
    np.testing.assert_allclose(moments, [0.03, 0.04], rtol=1e-4)
