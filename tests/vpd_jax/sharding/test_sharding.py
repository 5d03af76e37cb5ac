"""Mesh, rules and placement; sharded = unsharded on eight devices."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from tests import tiny
from vpd_jax import step
from vpd_jax.losses import fused
from vpd_jax.sharding import mesh, place, rules


def test_mesh_fills_the_free_axis():
  made = mesh.make({"fsdp": 2, "data": -1})
  assert dict(made.shape) == {"data": 4, "fsdp": 2, "tensor": 1}


@pytest.mark.parametrize(
  "sizes,message",
  [
    ({"data": 3}, r"'data': 3.*does not fit 8 devices"),
    ({"data": -1, "fsdp": 3}, "does not fit 8 devices"),
    ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
    ({"model": 8}, r"no axes \['model'\].*tensor"),
  ],
)
def test_mesh_that_does_not_fit_is_named(sizes, message):
  with pytest.raises(ValueError, match=message):
    mesh.make(sizes)


def test_a_mesh_axis_shards_one_dimension_of_an_array():
  table = rules.get("fsdp")
  assert rules.spec(("embed", "embed"), table) == ["fsdp", None]
  assert rules.spec((None, "embed"), table) == [None, "fsdp"]


def test_unknown_strategy_lists_those_that_exist():
  with pytest.raises(KeyError, match=r"'zero'.*data_parallel"):
    rules.get("zero")


def test_batch_size_message_names_what_would_do():
  sharding = place.batch_sharding(mesh.make({"data": -1}), "data_parallel")
  with pytest.raises(ValueError, match=r"batch_size=250.*try 248 or 256"):
    place.check_batch_size(250, sharding)
  with pytest.raises(ValueError, match=r"batch_size=5 .*try 8\."):
    place.check_batch_size(5, sharding)
  place.check_batch_size(256, sharding)


def test_parameter_that_does_not_divide_is_named():
  graphdef, params = tiny.pali(width=18)
  state = nnx.state(step.merge(graphdef, params), nnx.Param)
  made = mesh.make({"fsdp": 4, "data": -1})
  with pytest.raises(ValueError, match=r"parameter .*18.*'fsdp' \(4\)"):
    place.param_shardings(state, made, "fsdp")


@functools.cache
def _unsharded():
  return _one_step("data_parallel", {"data": 1}, jax.devices()[:1])


def _one_step(strategy, sizes, devices=None, tx=None):
  graphdef, params = tiny.pali()
  # Not Adam: its first step is the gradient's sign, which is noise where a
  # gradient is 0 but for rounding (as that of a key's bias).
  tx = optax.sgd(0.1, momentum=0.9) if tx is None else tx
  made = mesh.make(sizes, devices)
  shardings = place.param_shardings(
    nnx.state(step.merge(graphdef, params), nnx.Param), made, strategy
  )
  abstract = place.abstract_state(params, shardings, tx, made)
  state = jax.jit(
    functools.partial(step.init_state, tx=tx),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
  )(params)
  batch = place.put_batch(tiny.batch(8), place.batch_sharding(made, strategy))
  compiled = step.compile_train_step(
    state, batch, graphdef=graphdef, tx=tx, loss=fused.step_by_step
  )
  state, metrics = compiled(state, batch)
  return jax.device_get((state.params, metrics)), state


@pytest.mark.parametrize(
  "strategy,sizes",
  [
    ("data_parallel", {"data": 8}),
    ("fsdp", {"data": 2, "fsdp": 4}),
    ("fsdp_tensor", {"data": 2, "fsdp": 2, "tensor": 2}),
  ],
)
def test_sharded_is_unsharded(strategy, sizes):
  found, _ = _one_step(strategy, sizes)
  # float32: the sums over rows and devices are taken in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    found,
    _unsharded()[0],
  )


def test_fsdp_leaves_a_share_of_each_parameter_on_a_device():
  _, state = _one_step("fsdp", {"fsdp": 8})
  kernel = state.params["encoder"]["blocks"]["mlp"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (1, 2, 32)


def test_optimizer_state_lies_as_its_parameter():
  _, state = _one_step("fsdp", {"fsdp": 8}, tx=optax.adamw(1e-2))
  moment = state.opt_state[0].mu["head"]["kernel"]
  assert isinstance(moment.sharding, NamedSharding)
  assert moment.sharding.spec == state.params["head"]["kernel"].sharding.spec
