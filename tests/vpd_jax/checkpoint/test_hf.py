"""Foreign folders: what is read from hand-made files, and what is refused."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from vpd_jax.checkpoint import convert, hf, safetensors_file
from vpd_jax.models.renames import Layout, Rename, Table

TABLE = Table(
  renames=(
    Rename("embedding", "shared.weight"),
    Rename("kernel", "wi.weight", Layout.TRANSPOSED),
    Rename("stem", "patch.weight", Layout.PATCHES),
  ),
  prefix="model.",
  ignored=(r"head\..*",),
  copies={"lm_head.weight": "shared.weight"},
)
# Ours: three inputs, two outputs; patches of 2x2 pixels of 3 channels.
EXPECTED = {
  "embedding": jax.ShapeDtypeStruct((4, 2), np.float32),
  "kernel": jax.ShapeDtypeStruct((3, 2), np.float32),
  "stem": jax.ShapeDtypeStruct((12, 2), np.float32),
  "elsewhere": jax.ShapeDtypeStruct((1,), np.float32),
}
NAMES = {np.dtype("f4"): "F32", np.dtype("f2"): "F16", np.dtype("i4"): "I32"}


def load(folder, table=TABLE, expected=EXPECTED):
  found = convert.ours(hf.scan(folder), table, expected, folder)
  convert.check_finite(found.values(), folder)
  return convert.load(found, expected)


def save(folder, config, arrays, table=TABLE, **options):
  wrapped = {n: convert.in_memory(x, n) for n, x in arrays.items()}
  hf.write(folder, config, convert.theirs(wrapped, table), **options)


def numbers():
  """Their arrays, all numbers different."""
  return {
    "shared.weight": np.arange(8, dtype=np.float32).reshape(4, 2),
    "wi.weight": np.arange(10, 16, dtype=np.float32).reshape(2, 3),
    "patch.weight": np.arange(100, 124, dtype=np.float32).reshape(2, 3, 2, 2),
  }


def write(path, arrays, **lies):
  """A .safetensors file, byte by byte; `lies` replace header entries."""
  header, data = {}, b""
  for name, array in arrays.items():
    kind = NAMES.get(array.dtype, "BF16")
    start, data = len(data), data + array.tobytes()
    header[name] = {
      "dtype": kind,
      "shape": list(array.shape),
      "data_offsets": [start, len(data)],
    } | lies.get(name, {})
  text = json.dumps(header).encode()
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def folder_of(tmp_path, arrays, **lies):
  write(tmp_path / "m" / hf.WEIGHTS, arrays, **lies)
  return tmp_path / "m"


def sharded(tmp_path, weight_map=None):
  """A folder of two files with an index."""
  arrays, folder = numbers(), tmp_path / "m"
  last = arrays.pop("patch.weight")
  write(folder / "a.safetensors", arrays)
  write(folder / "b.safetensors", {"patch.weight": last})
  full = dict.fromkeys(arrays, "a.safetensors")
  full["patch.weight"] = "b.safetensors"
  index = {"weight_map": full if weight_map is None else weight_map(full)}
  (folder / hf.INDEX).write_text(json.dumps(index))
  return folder


def check_numbers(found):
  assert [*found] == ["embedding", "kernel", "stem"]
  np.testing.assert_array_equal(found["embedding"], numbers()["shared.weight"])
  np.testing.assert_array_equal(found["kernel"], [[10, 13], [11, 14], [12, 15]])
  # Ours goes pixel by pixel, their channels are planes: output 0's first
  # pixel is 100, 104, 108, its second 101, 105, 109.
  assert found["stem"][:6, 0].tolist() == [100, 104, 108, 101, 105, 109]
  assert found["stem"][:6, 1].tolist() == [112, 116, 120, 113, 117, 121]
  assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize("prefix", ["", "model."])
def test_reads_one_file(tmp_path, prefix):
  folder = folder_of(
    tmp_path, {prefix + name: x for name, x in numbers().items()}
  )
  check_numbers(load(folder))


def test_reads_several_files(tmp_path):
  check_numbers(load(sharded(tmp_path)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_reads_half_precision(tmp_path, dtype):
  # All below 128, where bfloat16 still has every whole number.
  arrays = {name: x.astype(dtype) for name, x in numbers().items()}
  check_numbers(load(folder_of(tmp_path, arrays)))


def test_ignored_parts_and_equal_copies_may_be_there(tmp_path):
  arrays = numbers()
  arrays["head.probe"] = np.zeros((5,), np.float32)
  arrays["lm_head.weight"] = arrays["shared.weight"]
  check_numbers(load(folder_of(tmp_path, arrays)))


def test_copy_that_differs_is_refused(tmp_path):
  arrays = numbers()
  arrays["lm_head.weight"] = arrays["shared.weight"] + 1
  with pytest.raises(ValueError, match=r"lm_head\.weight is not equal to sha"):
    load(folder_of(tmp_path, arrays))


def test_copy_that_is_nan_or_of_another_dtype_is_called_so(tmp_path):
  arrays = numbers()
  arrays["shared.weight"][1, 0] = np.nan
  arrays["lm_head.weight"] = arrays["shared.weight"]
  with pytest.raises(ValueError, match="NaN or infinite") as error:
    load(folder_of(tmp_path, arrays))
  assert "not equal" not in str(error.value)
  assert "lm_head.weight of model.safetensors: 1 of 8" in str(error.value)
  arrays["lm_head.weight"] = numbers()["shared.weight"].astype(np.float16)
  message = (
    r"lm_head\.weight, float16 \(4, 2\), is not of the dtype and shape of"
    r" shared\.weight, float32 \(4, 2\)"
  )
  with pytest.raises(ValueError, match=message):
    load(folder_of(tmp_path, arrays))


def test_names_are_listed_on_both_sides_with_the_nearest(tmp_path):
  arrays = numbers()
  arrays["wii.weight"] = arrays.pop("wi.weight")
  arrays["zzz"] = np.zeros((7,), np.float32)
  arrays["shared.weight"] = np.zeros((5, 2), np.float32)
  with pytest.raises(ValueError) as error:
    load(folder_of(tmp_path, arrays))
  message = str(error.value)
  assert "4 arrays differ" in message
  for line in (
    "missing wi.weight (2, 3), our kernel. Did you mean 'wii.weight'?",
    "unused wii.weight (2, 3). Did you mean 'wi.weight'?",
    "unused zzz (7,).",
    "shared.weight has shape (5, 2), expected (4, 2), our embedding.",
  ):
    assert f"  {line}\n" in message + "\n"


def test_numbers_that_are_no_weights_are_refused(tmp_path):
  arrays = numbers()
  arrays["wi.weight"] = arrays["wi.weight"].astype(np.int32)
  with pytest.raises(ValueError, match=r"wi\.weight has dtype I32, expected"):
    load(folder_of(tmp_path, arrays))


def test_weights_that_are_not_finite_are_all_named(tmp_path):
  arrays = numbers()
  arrays["wi.weight"][0, :2] = np.nan
  arrays["patch.weight"][0] = np.inf
  with pytest.raises(ValueError) as error:
    load(folder_of(tmp_path, arrays))
  for line in (
    "  wi.weight of model.safetensors, our kernel: 2 of 6",
    "  patch.weight of model.safetensors, our stem: 12 of 24",
  ):
    assert line in str(error.value)


@pytest.mark.parametrize("kept", [-1, 40, 4, 0])
def test_file_that_was_cut_off_is_named(tmp_path, kept):
  folder = folder_of(tmp_path, numbers())
  file = folder / hf.WEIGHTS
  file.write_bytes(file.read_bytes()[:kept])
  with pytest.raises(ValueError, match=r"model\.safetensors \(.*cut off or"):
    load(folder)


@pytest.mark.parametrize(
  "lie",
  [
    {"shape": [2, 4]},
    {"dtype": "F64"},
    {"data_offsets": [0, 24]},
    {"data_offsets": [32, 10**9]},
  ],
)
def test_header_that_lies_is_refused(tmp_path, lie):
  folder = folder_of(tmp_path, numbers(), **{"wi.weight": lie})
  with pytest.raises(ValueError, match="cut off or damaged"):
    load(folder)


@pytest.mark.parametrize(
  "weight_map,message",
  [
    (lambda m: m | {"more": "a.safetensors"}, r"a\.safet.*1 arrays.*\n  more"),
    (
      lambda m: {k: v for k, v in m.items() if k != "wi.weight"},
      r"a\.safet.*\n  wi\.weight",
    ),
    (lambda m: m | {"wi.weight": "b.safetensors"}, r"\n  wi\.weight"),
    (lambda m: m | {"wi.weight": "../a.safetensors"}, "not a file of the"),
    (lambda m: {}, "has no weight_map"),
  ],
)
def test_index_that_lies_is_refused(tmp_path, weight_map, message):
  with pytest.raises(ValueError, match=f"(?s){message}"):
    load(sharded(tmp_path, weight_map))


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors"):
    hf.scan(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"config\.json"):
    hf.read_config(tmp_path)
  folder = sharded(tmp_path)
  (folder / "b.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"b\.safetensors, which"):
    hf.scan(folder)


def test_config_that_is_not_json_is_named(tmp_path):
  (tmp_path / hf.CONFIG).write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not JSON"):
    hf.read_config(tmp_path)


@pytest.mark.parametrize("shard_bytes,files", [(10**9, 1), (60, 2), (1, 3)])
def test_saving_then_loading_is_the_identity(tmp_path, shard_bytes, files):
  ours = load(folder_of(tmp_path, numbers()))
  out = tmp_path / "deep" / "out"
  save(out, {"a": 1}, ours, shard_bytes=shard_bytes)
  assert len(list(out.glob("*.safetensors"))) == files
  assert (out / hf.INDEX).exists() == (files > 1)
  assert all(name.startswith("model.") for name in hf.scan(out))
  assert hf.read_config(out) == {"a": 1}
  check_numbers(load(out))
  assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_saves_bfloat16(tmp_path):
  ours = load(folder_of(tmp_path, numbers()))
  ours = {k: jax.numpy.asarray(v, jax.numpy.bfloat16) for k, v in ours.items()}
  save(tmp_path / "out", {}, ours)
  dtypes = {array.dtype for array in hf.scan(tmp_path / "out").values()}
  assert dtypes == {np.dtype(ml_dtypes.bfloat16)}
  check_numbers(load(tmp_path / "out"))


def test_saving_refuses_a_full_folder_and_an_unfinished_model(tmp_path):
  ours = load(folder_of(tmp_path, numbers()))
  with pytest.raises(FileExistsError, match="is not empty"):
    save(tmp_path / "m", {}, ours)
  del ours["kernel"]
  with pytest.raises(ValueError, match=r"(?s)not in the model.*\n  kernel"):
    save(tmp_path / "out", {}, ours)
  assert not (tmp_path / "out").exists()


def test_a_file_with_gaps_overlaps_or_no_header_is_refused(tmp_path):
  folder = folder_of(tmp_path, numbers())
  (folder / hf.WEIGHTS).write_bytes(b"\xff" * 64)
  with pytest.raises(ValueError, match="header would be"):
    hf.scan(folder)
  for lie in ({"data_offsets": [0, 32]}, {"data_offsets": [40, 64]}):
    folder = folder_of(tmp_path, numbers(), **{"wi.weight": lie})
    with pytest.raises(ValueError, match="the array before ends"):
      hf.scan(folder)


HEADERS = {
  "twice": ('{"a": %s, "a": %s}', r"its header has \['a'\] twice"),
  "float": (
    '{"a": {"dtype":"F32","shape":[1],"data_offsets":[0.0,4]}}',
    "offs",
  ),
  "bool": ('{"a": {"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "Tru"),
  "text": (
    '{"a": {"dtype":"F32","shape":"1","data_offsets":[0,4]}}',
    "shape 1",
  ),
  "deep": ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", "recursion"),
  "list": ("[1]", "list"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_python_would_take_otherwise(tmp_path, kind):
  text, message = HEADERS[kind]
  entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
  data = text.replace("%s", entry).encode()
  file = tmp_path / hf.WEIGHTS
  file.write_bytes(len(data).to_bytes(8, "little") + data + b"\0" * 4)
  with pytest.raises(ValueError, match=f"cut off or damaged: .*{message}"):
    hf.scan(tmp_path)


def test_one_file_counts_more_than_an_index(tmp_path):
  """As in transformers: the index may be left from before."""
  folder = sharded(tmp_path)
  folder_of(tmp_path, {name: x + 1 for name, x in numbers().items()})
  assert (folder / hf.INDEX).is_file()
  found = load(folder)
  np.testing.assert_array_equal(
    found["embedding"], numbers()["shared.weight"] + 1
  )


def test_writing_a_value_that_is_not_finite_leaves_nothing(tmp_path):
  ours = load(folder_of(tmp_path, numbers()))
  ours["kernel"] = ours["kernel"].at[0, 0].set(jax.numpy.nan)
  with pytest.raises(ValueError, match=r"wi\.weight has 1 values"):
    save(tmp_path / "out", {}, ours)
  assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_other_dtypes_may_be_there_if_nobody_needs_them(tmp_path):
  arrays = numbers() | {"head.position_ids": np.arange(3, dtype=np.int32)}
  check_numbers(load(folder_of(tmp_path, arrays)))


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path):
  library = pytest.importorskip("safetensors.numpy", reason="to compare with")
  arrays = numbers() | {"scalar": np.array(3, np.float32)}
  wrapped = {n: convert.in_memory(x, n) for n, x in arrays.items()}
  safetensors_file.write(tmp_path / "ours.safetensors", wrapped)
  for name, array in library.load_file(tmp_path / "ours.safetensors").items():
    np.testing.assert_array_equal(array, arrays[name])
  library.save_file(arrays, tmp_path / "theirs.safetensors")
  found = safetensors_file.scan(tmp_path / "theirs.safetensors")
  assert found.keys() == arrays.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array.whole(), arrays[name])
