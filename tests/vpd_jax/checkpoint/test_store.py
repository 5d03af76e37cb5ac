"""Checkpoints: all comes back; half-written and foreign ones do not."""

import functools
import os
import resource
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vpd_jax.checkpoint import store


class _State(NamedTuple):
  step: jax.Array
  params: dict
  opt_state: tuple


def _state(value=1.0, width=4):
  params = {
    "enc": {"w": jnp.full((width, 8), value), "b": jnp.zeros(8, jnp.bfloat16)},
    "out": {"w": jnp.arange(8.0)},
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  return _State(jnp.int32(7), params, tx.init(params))


def _abstract(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding or x.sharding
    ),
    state,
  )


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_state_position_and_notes_come_back(tmp_path):
  state = _state()
  saved = store.Store(tmp_path / "new" / "checkpoints")
  assert saved.latest_step() is None
  notes = ({"position": {"next_index": 3}}, {"seconds": 1.5, "best": None})
  saved.save(10, state, *notes)
  saved.wait()
  opened = store.Store(tmp_path / "new" / "checkpoints")
  assert opened.latest_step() == 10
  restored, *restored_notes = opened.restore(10, _abstract(state))
  _assert_same(restored, state)
  assert restored_notes == list(notes)


def test_state_may_be_donated_while_it_is_saved(tmp_path):
  state = _state()
  expected = jax.tree.map(np.array, state)

  @functools.partial(jax.jit, donate_argnums=0)
  def step(tree):
    return jax.tree.map(lambda x: x + 1, tree)

  opened = store.Store(tmp_path)
  abstract = _abstract(state)
  step(jax.tree.map(jnp.copy, state))
  opened.save(1, state, {}, {})
  for _ in range(5):
    state = step(state)
  restored, _, _ = opened.restore(1, abstract)
  _assert_same(restored, expected)


def test_the_latest_are_kept(tmp_path):
  opened = store.Store(tmp_path, keep=2)
  for step in (1, 2, 3):
    opened.save(step, {"w": jnp.full(2, float(step))}, {}, {})
  opened.wait()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_a_step_done_again_replaces_it_and_what_came_after(tmp_path):
  opened = store.Store(tmp_path, keep=5)
  for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)):
    opened.save(step, {"w": jnp.full(2, value)}, {}, {})
  opened.wait()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
  restored, _, _ = opened.restore(2, {"w": jnp.zeros(2)})
  np.testing.assert_array_equal(restored["w"], [20.0, 20.0])


def test_half_written_checkpoints_are_ignored(tmp_path):
  opened = store.Store(tmp_path)
  opened.save(1, {"w": jnp.ones(2)}, {}, {})
  opened.save(2, {"w": jnp.ones(2)}, {}, {})
  opened.wait()
  (tmp_path / "2" / "_CHECKPOINT_METADATA").unlink()
  (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
  read_only = store.Store(tmp_path, is_read_only=True)
  assert read_only.latest_step() == 1
  opened = store.Store(tmp_path)
  assert opened.latest_step() == 1
  with pytest.raises(FileNotFoundError, match=r"of step 2; it has \[1\]"):
    opened.restore(2, {"w": jnp.zeros(2)})
  opened.save(2, {"w": jnp.full(2, 5.0)}, {}, {})
  restored, _, _ = opened.restore(2, {"w": jnp.zeros(2)})
  np.testing.assert_array_equal(restored["w"], [5.0, 5.0])


def _cut_short(folder, pattern):
  """Halves the largest file that a pattern finds."""
  path = max(
    folder.rglob(pattern), key=lambda p: p.is_file() * p.stat().st_size
  )
  assert path.is_file()
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("pattern", ["notes/metadata", "ocdbt.process_0/d/*"])
def test_a_damaged_checkpoint_is_named_and_how_to_go_on(tmp_path, pattern):
  state = {"w": jax.random.normal(jax.random.key(0), (1000, 30))}
  opened = store.Store(tmp_path)
  for step in (4, 8):
    opened.save(step, state, {"position": 3}, {"seconds": 1.5})
  opened.wait()
  for step, start in ((8, "step 4"), (4, "the start")):
    _cut_short(tmp_path / str(step), pattern)
    message = (
      rf"checkpoint \S*/{step} is damaged: .+\. Remove that folder to go on from"
      rf" {start}\."
    )
    with pytest.raises(ValueError, match=message):
      store.Store(tmp_path).restore(step, state)
  with pytest.raises(ValueError, match=r"/4 is damaged: .*from a copy"):
    store.Store(tmp_path, is_read_only=True).restore(4, state)


def test_no_room_in_memory_is_no_damage(tmp_path, monkeypatch):
  opened = store.Store(tmp_path)
  opened.save(1, {"w": jnp.ones(2)}, {}, {})
  opened.wait()

  def restore(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

  monkeypatch.setattr(opened._manager, "restore", restore)
  with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
    opened.restore(1, {"w": jnp.zeros(2)})


def test_an_error_waits_for_the_save_under_way(tmp_path):
  big = {"w": jax.random.normal(jax.random.key(0), (1000, 300))}
  with (
    pytest.raises(KeyError, match="mine"),
    store.Store(tmp_path / "run") as opened,
  ):
    opened.save(1, big, {}, {})
    raise KeyError("mine")
  assert os.listdir(tmp_path / "run") == ["1"]
  # Of two errors, the one inside is told.
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    with (
      pytest.raises(KeyError, match="mine"),
      store.Store(tmp_path / "full") as opened,
    ):
      opened.save(1, big, {}, {})
      raise KeyError("mine")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_checkpoint_of_another_model_is_refused_by_name(tmp_path):
  opened = store.Store(tmp_path)
  opened.save(1, _state().params, {}, {})
  other = {
    "enc": {"w": jnp.zeros((5, 8)), "b": jnp.zeros(8)},
    "new": jnp.ones(3),
  }
  with pytest.raises(ValueError) as caught:
    opened.restore(1, other)
  assert str(caught.value).splitlines()[1:] == [
    "  enc/w has shape (4, 8), expected (5, 8)",
    "  missing new (3,)",
    "  unused out/w (8,)",
  ]


def test_checkpoint_can_be_restored_onto_another_mesh(tmp_path):
  state = _state(width=8)
  devices = np.asarray(jax.devices())
  assert len(devices) == 8
  rows = NamedSharding(Mesh(devices, ("x",)), PartitionSpec("x"))
  params = {"w": jax.device_put(state.params["enc"]["w"], rows)}
  opened = store.Store(tmp_path)
  opened.save(1, params, {}, {})
  mesh = Mesh(devices.reshape(2, 4), ("a", "b"))
  onto = NamedSharding(mesh, PartitionSpec("b", "a"))
  restored, _, _ = opened.restore(1, _abstract(params, onto))
  assert restored["w"].sharding == onto
  np.testing.assert_array_equal(restored["w"], params["w"])


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
  big = {"w": jax.random.normal(jax.random.key(0), (1000, 300))}
  opened = store.Store(tmp_path)
  opened.save(1, big, {}, {})
  opened.wait()
  # The nearest to a full disk that needs no mount: no file over 100 kB.
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    with pytest.raises(OSError, match=r"cannot write .*Free some.*\(step 1\)"):
      opened.save(2, big, {}, {})
      opened.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  reopened = store.Store(tmp_path)
  assert reopened.latest_step() == 1
  reopened.save(2, big, {}, {})
  reopened.wait()
  assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_a_save_that_failed_is_said_without_waiting_for_the_next(tmp_path):
  opened = store.Store(tmp_path)
  opened.check()  # Nothing failed yet.
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    opened.save(
      1, {"w": jax.random.normal(jax.random.key(0), (300_000,))}, {}, {}
    )
    deadline = time.monotonic() + 60
    with pytest.raises(OSError, match=r"cannot write .*\(step None\)"):
      while time.monotonic() < deadline:
        opened.check()
        time.sleep(0.05)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_folders_that_cannot_be_used_are_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    OSError, match=r"in .*file/checkpoints: .*another workdir"
  ):
    store.Store(tmp_path / "file" / "checkpoints")
  with pytest.raises(
    FileNotFoundError, match=r"no checkpoint folder .*nowhere"
  ):
    store.Store(tmp_path / "nowhere", is_read_only=True)
  assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
  "dtype, tolerance", [("float32", 0), ("float16", 1e-3)]
)
def test_weights_in_one_file_come_back(tmp_path, dtype, tolerance):
  # float16 has 11 bits of mantissa: half a unit in the last is 2 ** -11.
  params = {
    "enc": {"w": jax.random.normal(jax.random.key(0), (16, 8))},
    "b": jnp.ones(3, jnp.bfloat16),
  }
  path = tmp_path / "base.npz"
  store.save_params(path, params, dtype)
  loaded = store.load_params(path, _abstract(params))
  assert loaded["b"].dtype == jnp.bfloat16
  np.testing.assert_allclose(
    loaded["enc"]["w"], params["enc"]["w"], rtol=tolerance
  )
  again = tmp_path / "again.npz"
  store.save_params(again, params, dtype)
  assert again.read_bytes() == path.read_bytes()
  assert len(list(tmp_path.iterdir())) == 2


def test_weights_that_do_not_fit_are_refused(tmp_path):
  path = tmp_path / "base.npz"
  with pytest.raises(ValueError, match=r"w has a weight of 100000, too large"):
    store.save_params(path, {"w": jnp.full(2, 1e5)})
  store.save_params(path, {"w": jnp.ones(2)})
  with pytest.raises(
    ValueError, match=r"base.npz is of another model(.|\n)*unused w"
  ):
    store.load_params(path, {"v": jnp.ones(2)})
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(ValueError, match=r"base.npz is no complete .npz"):
    store.load_params(path, {"w": jnp.ones(2)})
  with pytest.raises(FileNotFoundError):
    store.load_params(tmp_path / "none.npz", {})
