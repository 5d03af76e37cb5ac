"""big_vision's .npz: scanned or not, whole or cut off, and what it holds."""

import ml_dtypes
import numpy as np
import pytest

from vpd_jax.checkpoint import big_vision, convert, families
from vpd_jax.models.pali import params

DEPTH, WIDTH, HEADS, MLP, PATCH, GRID = 3, 8, 2, 12, 2, 3
TEXT = dict(vocab_size=16, width=8, heads=2, head_width=4, mlp_width=8)
TEXT |= dict(encoder_depth=1, decoder_depth=1)


def tower():
  """SigLIP's image tower as big_vision names it, blocks unstacked."""
  rng = np.random.default_rng(0)

  def random(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  out = {
    "img/embedding/kernel": random(PATCH, PATCH, 3, WIDTH),
    "img/embedding/bias": random(WIDTH),
    "img/pos_embedding": random(1, GRID**2, WIDTH),
    "img/Transformer/encoder_norm/scale": random(WIDTH),
    "img/Transformer/encoder_norm/bias": random(WIDTH),
    "img/MAPHead_0/probe": random(1, 1, WIDTH),
    "img/head/kernel": random(WIDTH, 4),
    "txt/Embed_0/embedding": random(5, 4),
    "t": random(1),
    "b": random(1),
  }
  for layer in range(DEPTH):
    block = f"img/Transformer/encoderblock_{layer}"
    for norm in ("LayerNorm_0", "LayerNorm_1"):
      out[f"{block}/{norm}/scale"] = random(WIDTH)
      out[f"{block}/{norm}/bias"] = random(WIDTH)
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value"):
      out[f"{attention}/{name}/kernel"] = random(WIDTH, HEADS, WIDTH // HEADS)
      out[f"{attention}/{name}/bias"] = random(HEADS, WIDTH // HEADS)
    out[f"{attention}/out/kernel"] = random(HEADS, WIDTH // HEADS, WIDTH)
    out[f"{attention}/out/bias"] = random(WIDTH)
    out[f"{block}/MlpBlock_0/Dense_0/kernel"] = random(WIDTH, MLP)
    out[f"{block}/MlpBlock_0/Dense_0/bias"] = random(MLP)
    out[f"{block}/MlpBlock_0/Dense_1/kernel"] = random(MLP, WIDTH)
    out[f"{block}/MlpBlock_0/Dense_1/bias"] = random(WIDTH)
  return out


def test_a_byte_that_changed_is_found(tmp_path):
  path, name = tmp_path / "x.npz", "img/head/kernel"
  # More than is read with its header.
  large = np.random.default_rng(1).standard_normal((1000, 100))
  arrays = tower() | {name: large.astype(np.float32)}
  np.savez(path, **arrays)
  data = bytearray(path.read_bytes())
  at = data.index(arrays[name].tobytes())
  data[at + 300_000] ^= 1  # A float still, and finite.
  path.write_bytes(bytes(data))
  found = big_vision.scan(path)
  found["img/embedding/bias"].whole()
  with pytest.raises(ValueError, match=r"x\.npz is damaged: .*img/head/kernel"):
    found[name].whole()


def scanned(arrays):
  """The same with blocks stacked on the first axis."""
  out = {n: x for n, x in arrays.items() if "encoderblock_" not in n}
  for name in arrays:
    if "encoderblock_0" in name:
      layers = [
        arrays[name.replace("block_0", f"block_{n}")] for n in range(DEPTH)
      ]
      out[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
  return out


def load(path):
  found = big_vision.scan(path)
  shapes = {name: array.shape for name, array in found.items()}
  options = TEXT | params.big_vision_options(shapes)
  expected = families.Shapes("pali", options).named
  table = params.big_vision(options, "image")
  return options, convert.ours(found, table, expected, path)


def check(arrays):
  """By hand: what the third block's arrays are in ours."""
  theirs = tower()
  block = "img/Transformer/encoderblock_2"
  attention = f"{block}/MultiHeadDotProductAttention_0"
  query = arrays["vit/blocks/attention/query/kernel"].whole()
  assert query.shape == (DEPTH, WIDTH, WIDTH)
  np.testing.assert_array_equal(
    query[2][:, 5], theirs[f"{attention}/query/kernel"][:, 1, 1]
  )
  out = arrays["vit/blocks/attention/out/kernel"].whole()
  np.testing.assert_array_equal(
    out[2][5], theirs[f"{attention}/out/kernel"][1, 1]
  )
  np.testing.assert_array_equal(
    arrays["vit/blocks/mlp/down/kernel"].whole()[2],
    theirs[f"{block}/MlpBlock_0/Dense_1/kernel"],
  )
  np.testing.assert_array_equal(
    arrays["vit/positions"].whole(), theirs["img/pos_embedding"][0]
  )
  np.testing.assert_array_equal(
    arrays["vit/stem/0/kernel"].whole()[3 * 3 + 2],  # Row 1, column 1, blue.
    theirs["img/embedding/kernel"][1, 1, 2],
  )


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("prefix", ["", "params/"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_a_tower(tmp_path, is_scanned, prefix, save):
  arrays = scanned(tower()) if is_scanned else tower()
  named = {prefix + name: x for name, x in arrays.items()}
  if prefix:
    named["opt/0/count"] = np.zeros((), np.int32)
  save(tmp_path / "x.npz", **named)
  options, found = load(tmp_path / "x.npz")
  assert (
    options
    | dict(
      image_size=6, stem=((2, 8),), vit_depth=3, vit_heads=2, vit_mlp_width=12
    )
    == options
  )
  check(found)


def test_reads_bfloat16_of_two_raw_bytes(tmp_path):
  halves = {n: x.astype(ml_dtypes.bfloat16) for n, x in tower().items()}
  raw = {n: x.view(np.dtype("V2")) for n, x in halves.items()}
  np.savez(tmp_path / "x.npz", **raw)
  _, found = load(tmp_path / "x.npz")
  name = "vit/blocks/norm_mlp/scale"
  expected = halves["img/Transformer/encoderblock_1/LayerNorm_1/scale"]
  assert found[name].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(found[name].whole()[1], expected)


@pytest.mark.parametrize("kept", [-1, 1000, 3, 0])
def test_file_that_was_cut_off_is_named(tmp_path, kept):
  path = tmp_path / "x.npz"
  np.savez(path, **tower())
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(ValueError, match=r"x\.npz \(\d+ bytes\) is cut off"):
    big_vision.scan(path)


def test_what_is_not_a_tower_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"expected an \.npz"):
    big_vision.scan(tmp_path / "x.npz")
  with pytest.raises(ValueError, match="img/embedding/kernel"):
    params.big_vision_options({"llm/x": (1,)})
  arrays = tower()
  del arrays["img/Transformer/encoderblock_1/LayerNorm_0/bias"]
  np.savez(tmp_path / "x.npz", **arrays)
  with pytest.raises(ValueError, match=r"missing .*encoderblock_1/LayerNorm_0"):
    load(tmp_path / "x.npz")


def test_one_member_is_read_at_a_time(tmp_path, monkeypatch):
  np.savez(tmp_path / "x.npz", **tower())
  _, found = load(tmp_path / "x.npz")
  counts = []
  original = np.fromfile
  monkeypatch.setattr(
    np,
    "fromfile",
    lambda *a, **k: counts.append(k["count"]) or original(*a, **k),
  )
  found["vit/blocks/mlp/up/kernel"].read(
    (slice(1, 2), *map(slice, (0, 0), (WIDTH, MLP)))
  )
  assert counts == [WIDTH * MLP]
