"""Schedules, clipping, decay and freezing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax import optim


def test_schedule_warms_up_and_decays():
  _, schedule = optim.make(
    {"w": jnp.zeros((2, 2))},
    total_steps=100,
    lr=1.0,
    warmup_steps=10,
    final_lr_share=0.1,
  )
  values = [float(schedule(s)) for s in (0, 5, 10, 55, 100)]
  np.testing.assert_allclose(values, [0, 0.5, 1, 0.55, 0.1], atol=1e-6)


def test_warm_up_longer_than_the_run_is_refused():
  with pytest.raises(ValueError, match=r"warmup_steps=10.*total_steps=10"):
    optim.make({}, total_steps=10, lr=1.0, warmup_steps=10)


def _step(params, grads, **options):
  tx, _ = optim.make(params, total_steps=10, lr=0.1, **options)
  state = tx.init(params)
  updates, _ = tx.update(grads, state, params)
  return updates, state


def test_decay_pulls_matrices_and_leaves_vectors():
  params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones((2,))}
  grads = jax.tree.map(jnp.zeros_like, params)
  updates, _ = _step(params, grads, weight_decay=0.5)
  np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-6)
  np.testing.assert_array_equal(updates["scale"], 0)


def test_frozen_parameters_keep_their_value_and_have_no_state():
  params = {"vit": {"w": jnp.ones((3, 5))}, "head": {"w": jnp.ones((3, 7))}}
  grads = jax.tree.map(jnp.ones_like, params)
  updates, state = _step(params, grads, freeze=("vit/",), weight_decay=0.5)
  np.testing.assert_array_equal(updates["vit"]["w"], 0)
  assert float(jnp.abs(updates["head"]["w"]).min()) > 0.01
  shapes = [x.shape for x in jax.tree.leaves(state)]
  assert (3, 7) in shapes and (3, 5) not in shapes


def test_pattern_that_freezes_nothing_is_refused():
  with pytest.raises(ValueError, match=r"'vti/' matches no array.*vit/w"):
    _step(
      {"vit": {"w": jnp.ones(2)}}, {"vit": {"w": jnp.ones(2)}}, freeze=("vti/",)
    )


def test_clipping_is_of_all_gradients_together():
  params = {"a": jnp.zeros((1, 1)), "b": jnp.zeros((1, 1))}
  small = {"a": jnp.full((1, 1), 0.3), "b": jnp.full((1, 1), 0.4)}
  large = jax.tree.map(lambda g: g * 100, small)
  tx, _ = optim.make(params, total_steps=10, lr=0.1, clip_norm=0.5)
  for grads in (small, large):
    _, after = tx.update(grads, tx.init(params), params)
    # First moment: 0.1 of the clipped gradient, whose norm is 0.5.
    moments = [float(after[1][0].mu[k][0, 0]) for k in ("a", "b")]
    np.testing.assert_allclose(moments, [0.03, 0.04], rtol=1e-4)
