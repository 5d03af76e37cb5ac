"""Metrics read late, and what is not finite named."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from vpd_jax import late


def test_the_last_ones_stay_until_they_are_asked_for():
  pending = late.Late()
  for step in (1, 2, 3):
    pending.add(step, {"loss": jnp.float32(step / 2)})
  assert list(pending.read(keep=1)) == [(1, {"loss": 0.5}), (2, {"loss": 1.0})]
  assert list(pending.read(keep=1)) == []
  assert list(pending.read()) == [(3, {"loss": 1.5})]
  assert list(pending.read()) == []


class _Batches:
  def example_ids(self, number):
    return [f"b{number}r{row}" for row in range(10)]


def _check(folder, values, last=4, **options):
  late.check(7, values, _Batches(), folder, lambda: last, **options)


@pytest.mark.parametrize("name", late.CHECKED)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_step_examples_and_last_checkpoint_are_named(tmp_path, name, value):
  values = {"loss": 1.0, "grad_norm": 2.0, "other": math.nan} | {name: value}
  message = (
    rf"the {name} is {value} at step 7, on the examples b6r0, .*b6r7 and 2 more"
    r" .*bad_batch.json\). The last checkpoint is of step 4\."
  )
  with pytest.raises(ValueError, match=message):
    _check(tmp_path, values)
  record = json.loads((tmp_path / "bad_batch.json").read_text())
  assert record["step"] == 7 and record[name] == str(value)
  assert record["example_ids"] == _Batches().example_ids(6)


def test_only_the_main_process_writes_the_file(tmp_path):
  with pytest.raises(ValueError, match="No checkpoint was saved before"):
    _check(tmp_path, {"loss": math.nan}, last=None, is_main=False)
  assert not list(tmp_path.iterdir())


def test_what_is_finite_passes(tmp_path):
  _check(tmp_path, {"loss": 1e30, "grad_norm": 0.0})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_that_is_not_finite_is_not_saved(value, dtype):
  state = {"step": jnp.int32(3), "w": jnp.ones((2, 3), dtype)}
  late.check_state(state, 3, lambda: 2)
  state["w"] = state["w"].at[1, 2].set(value)
  with pytest.raises(ValueError, match=r"after step 3 .* is of step 2"):
    late.check_state(state, 3, lambda: 2)


def test_a_state_may_lie_on_many_devices():
  mesh = jax.make_mesh((8,), ("x",))
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  state = {"w": jax.device_put(jnp.ones(16).at[15].set(jnp.nan), spec)}
  with pytest.raises(ValueError, match="not finite"):
    late.check_state(state, 1, lambda: None)
