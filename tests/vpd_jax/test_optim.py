"""Schedules, clipping, decay and freezing."""

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
  ],
)
def test_what_a_user_gets_wrong_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    optim.make(total_steps=10, lr=0.1, **options).partition(_params())


def test_clipping_is_of_all_gradients_together():
  params = {"a": jnp.zeros((1, 1)), "b": jnp.zeros((1, 1))}
  small = {"a": jnp.full((1, 1), 0.3), "b": jnp.full((1, 1), 0.4)}
  large = jax.tree.map(lambda g: g * 100, small)
  tx = optim.make(total_steps=10, lr=0.1, clip_norm=0.5).tx
  for grads in (small, large):
    _, after = tx.update(grads, tx.init(params), params)
    # First moment: 0.1 of the clipped gradient, whose norm is 0.5.
    moments = [float(after[1][0].mu[k][0, 0]) for k in ("a", "b")]
    np.testing.assert_allclose(moments, [0.03, 0.04], rtol=1e-4)
