"""Tables applied to arrays: layouts, layers, shardings, and what is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vpd_jax.checkpoint import convert, source
from vpd_jax.models.renames import Layout, Rename, Table

RNG = np.random.default_rng(0)
HEADS = Layout.heads_in(4)
# Layout -> (a shape of ours, that of theirs, one element of theirs as ours).
LAYOUTS = {
  "same": (Layout.SAME, (4, 6), (4, 6)),
  "scalar": (Layout.SAME, (), ()),
  "transposed": (Layout.TRANSPOSED, (4, 6), (6, 4)),
  "patches": (Layout.PATCHES, (12, 6), (6, 3, 2, 2)),
  "pixels": (Layout.PIXELS, (12, 6), (2, 2, 3, 6)),
  "one_row": (Layout.ONE_ROW, (4, 6), (1, 4, 6)),
  "heads_in": (HEADS, (6, 8), (6, 4, 2)),
  "heads_in_bias": (HEADS, (8,), (4, 2)),
  "one_head": (Layout.heads_in(1), (6, 8), (6, 1, 8)),
  "heads_out": (Layout.heads_out(4), (8, 6), (4, 2, 6)),
  "heads_first": (Layout.heads_first(4), (6, 8), (4, 6, 2)),
  "joined": (Layout.heads_first(4).in_row(), (6, 8), (1, 4, 6, 2)),
}


def foreign(**arrays):
  return {n: convert.in_memory(x, n) for n, x in arrays.items()}


def shapes(arrays):
  return {
    n: jax.ShapeDtypeStruct(x.shape, np.float32) for n, x in arrays.items()
  }


def random(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_there_and_back_and_every_part_of_it(name):
  layout, shape, their_shape = LAYOUTS[name]
  array = random(*shape)
  theirs = layout.to_theirs(array)
  assert theirs.shape == layout.their_shape(shape) == their_shape
  np.testing.assert_array_equal(layout.to_ours(theirs, shape), array)
  for trial in range(50):
    rng = np.random.default_rng(trial)
    index = tuple(
      slice(*sorted(rng.choice(size + 1, 2, replace=False).tolist()))
      for size in shape
    )
    part = layout.read(lambda i: theirs[i], shape, index)
    np.testing.assert_array_equal(part, array[index])


def test_layouts_are_what_they_say():
  """One element each, by hand."""
  kernel = np.arange(48).reshape(6, 8)  # Six inputs, four heads of two.
  assert Layout.heads_in(4).to_theirs(kernel)[5, 3, 1] == kernel[5, 7]
  assert Layout.heads_first(4).to_theirs(kernel)[3, 5, 1] == kernel[5, 7]
  assert Layout.heads_out(3).to_theirs(kernel)[2, 1, 4] == kernel[5, 4]
  patch = np.arange(24).reshape(12, 2)  # Row, column, channel.
  assert Layout.PIXELS.to_theirs(patch)[1, 0, 2, 1] == patch[8, 1]
  assert Layout.PATCHES.to_theirs(patch)[1, 2, 1, 0] == patch[8, 1]


LAYERS = Table(
  renames=(
    Rename("up", "h.{}.up", Layout.TRANSPOSED, layers=3),
    Rename("odd", "h.{}.cross", layers=range(1, 6, 2)),
    Rename("stacked", "all/up", Layout.heads_in(2), layers=3),
    Rename("second", "t5x/up", layers=3, layers_axis=1),
    Rename("query", "h.{}.qkv", Layout.TRANSPOSED, layers=3, part=(0, 3)),
    Rename("key", "h.{}.qkv", Layout.TRANSPOSED, layers=3, part=(1, 3)),
    Rename("value", "h.{}.qkv", Layout.TRANSPOSED, layers=3, part=(2, 3)),
    Rename("gate", "gating", Layout.ONE_ROW, layers=3, part=(0, 2)),
    Rename("bump", "gating", Layout.ONE_ROW, layers=3, part=(1, 2)),
  )
)


def layered():
  """(theirs, ours)."""
  up, odd, qkv = random(3, 4, 5), random(3, 7), random(3, 5, 6)
  stacked, second, gating = random(3, 5, 8), random(3, 5, 6), random(3, 2, 5, 4)
  theirs = {f"h.{i}.up": up[i].T for i in range(3)}
  theirs |= {f"h.{2 * i + 1}.cross": odd[i] for i in range(3)}
  theirs |= {f"h.{i}.qkv": qkv[i].T for i in range(3)}
  theirs["all/up"] = stacked.reshape(3, 5, 2, 4)
  theirs["t5x/up"] = second.transpose(1, 0, 2)
  theirs["gating"] = gating
  ours = {"up": up, "odd": odd, "stacked": stacked, "second": second}
  for number, name in enumerate(("query", "key", "value")):
    ours[name] = qkv[:, :, 2 * number : 2 * number + 2]
  ours |= {"gate": gating[:, 0], "bump": gating[:, 1]}
  return theirs, ours


def test_layers_stacks_and_parts_in_both_directions():
  theirs, expected = layered()
  found = convert.ours(foreign(**theirs), LAYERS, shapes(expected), "here")
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array.whole(), expected[name], err_msg=name)
  back = convert.theirs(foreign(**expected), LAYERS)
  assert back.keys() == theirs.keys()
  for name, array in back.items():
    assert array.shape == theirs[name].shape
    np.testing.assert_array_equal(array.whole(), theirs[name], err_msg=name)


@pytest.mark.parametrize("piece_bytes", [1, 100, 10**9])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_loads_into_any_shardings(monkeypatch, piece_bytes, dtype):
  monkeypatch.setattr(source, "PIECE_BYTES", piece_bytes)
  mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
  array, table = (
    random(3, 8, 12),
    Table((Rename("x", "h.{}", Layout.TRANSPOSED, layers=3),)),
  )
  theirs = foreign(**{f"h.{i}": array[i].T for i in range(3)})
  for spec in ((), (None, "a"), (None, "b", "a"), (None, None, ("a", "b"))):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    target = jax.ShapeDtypeStruct(array.shape, dtype, sharding=sharding)
    found = convert.ours(theirs, table, {"x": target}, "here")
    loaded = convert.load(found, {"x": target})["x"]
    assert loaded.sharding == sharding and loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, array.astype(dtype))


def counted(array, name, reads):
  """An array that notes how many elements of it are read."""
  inner = convert.in_memory(array, name)

  def read(index):
    out = inner.read(index)
    reads.append(out.size)
    return out

  return source.Array(name, inner.shape, inner.dtype, read)


def test_every_shard_is_read_once_and_no_more_than_it_needs(monkeypatch):
  monkeypatch.setattr(source, "PIECE_BYTES", 64)
  mesh = jax.make_mesh((2, 4), ("a", "b"))
  array, reads = random(8, 12), []
  table = Table((Rename("x", "x", Layout.TRANSPOSED),))
  # Cut along their rows (ours: columns) in two; four devices have each half.
  sharding = NamedSharding(mesh, PartitionSpec(None, "a"))
  target = {"x": jax.ShapeDtypeStruct((8, 12), np.float32, sharding=sharding)}
  theirs = {"x": counted(array.T, "x", reads)}
  found = convert.ours(theirs, table, target, "here")
  loaded = convert.load(found, target)["x"]
  np.testing.assert_array_equal(loaded, array)
  assert sum(reads) == array.size and max(reads) * 4 <= 64
  # Across their rows: a piece serves the shards of all devices.
  sharding = NamedSharding(mesh, PartitionSpec(("a", "b"), None))
  target = {"x": jax.ShapeDtypeStruct((8, 12), np.float32, sharding=sharding)}
  reads.clear()
  np.testing.assert_array_equal(convert.load(found, target)["x"], array)
  assert sum(reads) == array.size


def test_names_of_other_versions_are_spelled_as_the_table_has_them():
  table = Table(
    (Rename("x", "model.tower.x"),),
    spellings=((r"^tower\.", "model.tower."), (r"\.gamma$", ".x")),
  )
  x = random(2)
  for name in ("model.tower.x", "tower.x", "tower.gamma"):
    found = convert.ours(foreign(**{name: x}), table, {"x": x}, "here")
    np.testing.assert_array_equal(found["x"].whole(), x)
  both = foreign(**{"model.tower.x": x, "tower.x": x})
  with pytest.raises(ValueError, match="both named"):
    convert.ours(both, table, {"x": x}, "here")


def test_a_vocabulary_of_another_size_is_called_so():
  table = Table((Rename("embedding/table", "shared"), Rename("up", "up")))
  expected = {"embedding/table": random(32, 4), "up": random(4, 4)}
  theirs = foreign(shared=random(30, 4), up=random(5, 4))
  axes = {"embedding/table": ("vocab", "embed"), "up": ("embed", "mlp")}
  with pytest.raises(ValueError) as error:
    convert.ours(theirs, table, expected, "here", axes)
  first, second = str(error.value).splitlines()[1:]
  assert "(30, 4), expected (32, 4)" in first
  assert first.endswith("The vocabularies differ in size.")
  assert "vocabular" not in second


def test_errors_come_before_any_value_is_read():
  reads = []
  table = Table((Rename("x", "x"), Rename("y", "y")))
  theirs = {"x": counted(random(4), "x", reads)}
  with pytest.raises(ValueError, match="missing y"):
    convert.ours(theirs, table, {"x": random(4), "y": random(4)}, "here")
  assert not reads
