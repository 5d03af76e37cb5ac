"""The mesh: sizes that fit, messages, slices."""

import dataclasses

import jax
import numpy as np
import pytest

from vpd_jax.sharding import mesh, rules


@dataclasses.dataclass(frozen=True)
class Device:
  """As much of a jax.Device as arranging needs."""

  id: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "fake"
  process_index: int = 0


def _devices(slices, each, platform="gpu"):
  """Not in the order of slices: by turns."""
  return [
    Device(number, number % slices, platform) for number in range(slices * each)
  ]


def _slices_of(made):
  return np.vectorize(lambda device: device.slice_index)(made.devices)


def test_free_axis_is_filled():
  made = mesh.make({"fsdp": 2, "data": -1})
  assert tuple(made.shape) == mesh.AXES
  assert {a: n for a, n in made.shape.items() if n > 1} == {
    "data": 4,
    "fsdp": 2,
  }


def test_devices_of_a_process_are_neighbours():
  made = mesh.make({"data": 2, "tensor": 4})
  np.testing.assert_array_equal(made.devices.ravel(), jax.devices())


@pytest.mark.parametrize(
  "sizes,message",
  [
    ({"fsdp": 3}, r"mesh.fsdp=3 does not fit 8 devices: try 1, 2, 4 or 8\."),
    (
      {"data": 2, "fsdp": 3},
      r"mesh.fsdp=3 does not fit 8 devices with data=2: try 1, 2 or 4\.",
    ),
    ({"data": 8, "tensor": 2}, r"tensor=2 does not fit .* data=8: try 1\."),
    ({"data": -1, "fsdp": 3}, r"mesh.fsdp=3 does not fit 8 devices"),
    ({"data": 2}, r"it uses 2\. Try sharding.mesh.data=8, or -1"),
    ({}, r"it uses 1\. Try sharding.mesh.data=8"),
    ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
    ({"tensor": 0}, r"mesh.tensor=0: at least 1"),
    ({"model": 8}, r"no axes \['model'\].*sequence"),
  ],
)
def test_mesh_that_does_not_fit_is_named(sizes, message):
  with pytest.raises(ValueError, match=message):
    mesh.make(sizes)


def test_replica_is_across_slices_and_the_rest_within():
  made = mesh.make({"replica": 2, "fsdp": 2, "tensor": 2}, _devices(2, 4))
  np.testing.assert_array_equal(
    _slices_of(made).reshape(2, 4), [[0] * 4, [1] * 4]
  )
  assert {device.id for device in made.devices.ravel()} == set(range(8))


def test_data_spans_slices_where_replica_is_one():
  made = mesh.make({"data": -1, "tensor": 2}, _devices(2, 4))
  # Neighbours along data are of one slice; its first half is slice 0.
  np.testing.assert_array_equal(
    _slices_of(made).reshape(4, 2), [[0, 0], [0, 0], [1, 1], [1, 1]]
  )


def test_replica_and_data_span_slices_together():
  made = mesh.make({"replica": 2, "data": 2, "fsdp": 2}, _devices(4, 2))
  np.testing.assert_array_equal(
    _slices_of(made).reshape(4, 2), [[0, 0], [1, 1], [2, 2], [3, 3]]
  )


def test_hosts_without_slices_of_tpus_may_share_fsdp():
  made = mesh.make({"fsdp": 8}, _devices(2, 4))
  np.testing.assert_array_equal(
    _slices_of(made).reshape(2, 4), [[0] * 4, [1] * 4]
  )


def test_slices_that_no_axis_spans_are_named():
  with pytest.raises(ValueError, match=r"2 slices of 4.*Try .*replica=2"):
    mesh.make({"fsdp": 8}, _devices(2, 4, "tpu"))
  with pytest.raises(ValueError, match=r"replica x data x fsdp may cross"):
    mesh.make({"tensor": 8}, _devices(2, 4))
  uneven = [Device(number, int(number > 2)) for number in range(8)]
  with pytest.raises(ValueError, match=r"slices have \[3, 5\] devices"):
    mesh.make({"data": 8}, uneven)


def test_a_mesh_axis_shards_one_dimension_of_an_array():
  table = rules.get("fsdp")
  embed = ("fsdp", "sequence")
  assert rules.spec(("embed", "embed"), table) == [embed, None]
  assert rules.spec((None, "embed"), table) == [None, embed]
  # The batch has fsdp already.
  assert rules.spec(("batch", "embed"), table)[1] is None


def test_unknown_strategy_lists_those_that_exist():
  with pytest.raises(KeyError, match=r"'zero'.*data_parallel"):
    rules.get("zero")
