"""The train step: accumulation, moving averages."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests import tiny
from vpd_jax import step
from vpd_jax.losses import fused
from vpd_jax.models import lora
from vpd_jax.sharding import mesh as mesh_lib
from vpd_jax.sharding import place

# float32: sums of some thousand terms in another order.
_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def _trainer(tx=None, **options):
  graphdef, params = tiny.pali()
  tx = tx or optax.sgd(1.0)
  return step.init_state(params, tx, **options), {
    "graphdef": graphdef,
    "tx": tx,
    "loss": fused.step_by_step,
    "totals": fused.totals,
  }


def _take(state, batch, **parts):
  return jax.jit(functools.partial(step.train_step, **parts))(state, batch)


def test_parts_have_images_with_all_their_questions():
  batch = {
    "image": np.arange(4)[:, None],
    "question": np.array([0, 1, 10, 11, 20, 21, 30, 31]),
  }
  parts = step.cut_batch(tiny.on_device(batch), 2)
  np.testing.assert_array_equal(parts["image"], [[[0], [2]], [[1], [3]]])
  np.testing.assert_array_equal(
    parts["question"], [[0, 1, 20, 21], [10, 11, 30, 31]]
  )


@functools.cache
def _whole(questions=1):
  """(state, batch, options, state after a step, metrics)."""
  batch = tiny.batch()
  batch["image"] = batch["image"][::questions]
  batch = tiny.on_device(batch)
  state, options = _trainer()
  return state, batch, options, *_take(state, batch, **options)


@pytest.mark.parametrize("parts,questions", [(2, 1), (4, 1), (2, 2)])
def test_accumulated_is_whole(parts, questions):
  """Also where parts have 1 and 2 rationales, or none."""
  state, batch, options, whole, metrics = _whole(questions)
  found = _take(state, batch, accumulate=parts, **options)
  jax.tree.map(_close, (whole.params, metrics), (found[0].params, found[1]))
  moved = step.join({}, whole.params)["head"]["kernel"]
  assert float(jnp.abs(moved - state.params["head"]["kernel"]).max()) > 1e-3


def test_totals_of_the_whole_batch_are_what_makes_parts_equal():
  """Means of means are not the mean where rationales are uneven."""
  state, batch, options, _, metrics = _whole()

  def own(model, batch, key, totals):
    del totals
    loss, metrics = fused.step_by_step(model, batch, key)
    return loss / 2, jax.tree.map(lambda x: x / 2, metrics)

  _, wrong = _take(state, batch, accumulate=2, **options | {"loss": own})
  gap = abs(wrong["loss_rationale"] - metrics["loss_rationale"])
  assert gap > 1e-4


def test_accumulated_over_devices():
  mesh = mesh_lib.make({"data": 2, "fsdp": 2}, jax.devices()[:4])
  state, options = _trainer()
  batch = tiny.batch(8)
  expected = _take(state, tiny.on_device(batch), **options)
  variables = nnx.state(
    step.merge(options["graphdef"], state.params), nnx.Param
  )
  shardings = place.param_shardings(variables, mesh, "fsdp")
  abstract = place.abstract_state(state.params, shardings, options["tx"], mesh)
  state = jax.tree.map(
    lambda x, to: jax.device_put(x, to.sharding), state, abstract
  )
  batch = place.put_batch(batch, place.batch_sharding(mesh, "fsdp"))
  compiled = step.compile_train_step(state, batch, accumulate=2, **options)
  found, metrics = compiled(state, batch)
  jax.tree.map(
    _close, (found.params, metrics), (expected[0].params, expected[1])
  )
  # A device has 2 of the 8 images, and never sees another.
  shapes = re.findall(r"\bu8\[([\d,]+)\]", str(compiled.as_text()))
  sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
  assert max(sizes) == 2 * 48 * 48 * 3


def test_parts_drop_out_differently():
  graphdef, params = tiny.pali()
  tx = optax.sgd(1.0)

  def loss(model, batch, key, totals):
    del totals
    draw = jax.random.uniform(key)
    value = draw * jnp.sum(model.head.kernel[...]) * jnp.mean(batch["x"])
    return value, {"draw": draw, "squared": draw**2}

  options = dict(graphdef=graphdef, tx=tx, loss=loss, totals=lambda _: {})
  state = step.init_state(params, tx)
  batch = {"x": jnp.ones((4,))}
  _, metrics = _take(state, batch, accumulate=2, **options)
  # Two equal draws would give the sum's square, halved.
  assert abs(metrics["squared"] - metrics["draw"] ** 2 / 2) > 1e-3


def test_accumulated_updates_of_a_frozen_model():
  """Only updates have a sum of gradients."""
  graphdef, params = tiny.pali()
  model = step.merge(graphdef, params)
  lora.add(model, ["encoder/"], rank=2, alpha=2.0)
  graphdef, params = nnx.split(model, nnx.Param)
  params = nnx.to_pure_dict(params)
  mask = jax.tree_util.tree_map_with_path(
    lambda path, _: "lora" in jax.tree_util.keystr(path), params
  )
  trained, frozen = step.split(params, mask)
  tx = optax.sgd(1.0)
  state = step.init_state(trained, tx, frozen)
  options = dict(
    graphdef=graphdef, tx=tx, loss=fused.step_by_step, totals=fused.totals
  )
  batch = tiny.on_device(tiny.batch())
  whole, _ = _take(state, batch, **options)
  found, _ = _take(state, batch, accumulate=2, **options)
  jax.tree.map(_close, found.params, whole.params)
  assert found.frozen.keys() == frozen.keys()


def test_batch_that_does_not_divide_is_named():
  state, options = _trainer()
  batch = tiny.on_device(tiny.batch(6))
  with pytest.raises(ValueError, match=r"accumulate=4 .* 6 images; \[1, 2, 3"):
    step.train_step(state, batch, accumulate=4, **options)
  options["totals"] = None
  with pytest.raises(ValueError, match="accumulate=2 needs the loss's totals"):
    step.train_step(state, batch, accumulate=2, **options)


def test_moving_average_by_hand():
  state, options = _trainer(has_ema=True)
  batch = tiny.on_device(tiny.batch())
  jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
  first, _ = _take(state, batch, ema_decay=0.75, **options)
  second, _ = _take(first, batch, ema_decay=0.75, **options)
  jax.tree.map(
    lambda ema, p0, p1, p2: _close(
      ema, 0.75 * (0.75 * p0 + 0.25 * p1) + 0.25 * p2
    ),
    second.ema,
    state.params,
    first.params,
    second.params,
  )
  jax.tree.map(np.testing.assert_array_equal, second.eval_params, second.ema)


def test_without_moving_average_trained_parameters_are_evaluated():
  state, options = _trainer()
  assert state.ema == {} and state.eval_params == state.all_params
  batch = tiny.on_device(tiny.batch())
  with pytest.raises(ValueError, match=r"ema_decay=0.9.*no moving average"):
    step.train_step(state, batch, ema_decay=0.9, **options)


def test_a_step_may_write_over_its_state():
  """The average shares no array with the parameters, though equal at first."""
  state, options = _trainer(has_ema=True)
  state = jax.device_put(state, jax.devices()[0])
  batch = jax.device_put(tiny.on_device(tiny.batch()), jax.devices()[0])
  compiled = step.compile_train_step(state, batch, ema_decay=0.9, **options)
  state, metrics = compiled(state, batch)
  assert np.isfinite(metrics["loss"])
  kernels = (x["head"]["kernel"] for x in (state.ema, state.params))
  assert float(jnp.abs(jnp.subtract(*kernels)).max()) > 0
