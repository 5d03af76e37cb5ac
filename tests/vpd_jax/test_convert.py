"""The command: foreign folders to ours and back, and what it refuses."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from jax.sharding import NamedSharding, PartitionSpec

from tests import entries
from tests.vpd_jax.checkpoint import test_big_vision
from vpd_jax import convert as command
from vpd_jax import trees
from vpd_jax.checkpoint import convert, exchange, families, hf, model_folder
from vpd_jax.models import resize
from vpd_jax.models.blip2 import hf_config as blip2_config
from vpd_jax.models.blip2 import params as blip2_params
from vpd_jax.models.blip2 import sizes as blip2_sizes
from vpd_jax.models.pali import hf_config, params

OPTIONS = dict(
  vocab_size=16,
  image_size=6,
  stem=((2, 8),),
  vit_depth=3,
  vit_heads=2,
  vit_mlp_width=12,
  width=8,
  heads=2,
  head_width=4,
  mlp_width=8,
  encoder_depth=2,
  decoder_depth=1,
)
FLOAT = np.dtype(np.float32)
PARTS = ("text", "image")


def numbers():
  """Random arrays of a model of those options, under our names."""
  rng = np.random.default_rng(0)
  named = families.Shapes("pali", OPTIONS).named
  return {
    n: rng.standard_normal(x.shape).astype(np.float32) for n, x in named.items()
  }


def wrapped(arrays):
  return {n: convert.in_memory(x, n) for n, x in arrays.items()}


@pytest.fixture
def foreign(tmp_path):
  """part -> hf:DIR of a T5 and a SigLIP."""
  for part in PARTS:
    hf.write(
      tmp_path / part,
      hf_config.config(OPTIONS, part, rows=16),
      convert.theirs(wrapped(numbers()), params.table(OPTIONS, part)),
    )
  return {part: f"hf:{tmp_path / part}" for part in PARTS}


@pytest.fixture
def rest(tmp_path):
  """A folder of ours with nothing but the projection."""
  arrays = {n: x for n, x in numbers().items() if n in params.FRESH}
  model_folder.write(tmp_path / "rest", "pali", OPTIONS, wrapped(arrays))
  return str(tmp_path / "rest")


def check(directory, expected):
  found = {n: x.whole() for n, x in model_folder.read(directory).arrays.items()}
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_there_and_back_is_the_identity(tmp_path, foreign, rest):
  ours, out = tmp_path / "ours", tmp_path / "out"
  exchange.bring_in(foreign, ours, FLOAT, projection=rest)
  check(ours, numbers())
  about = json.loads((ours / "model.json").read_text())
  assert about["family"] == "pali" and about["options"]["width"] == 8
  exchange.export(ours, out, FLOAT)
  for part in PARTS:
    for name, array in hf.scan(tmp_path / part).items():
      again = hf.scan(out / part)[name].whole()
      np.testing.assert_array_equal(again, array.whole())
  again = {part: f"hf:{out / part}" for part in PARTS}
  exchange.bring_in(again, tmp_path / "2", FLOAT, projection=f"{out}/rest")
  for file in ("model.json", "model.safetensors"):
    assert (tmp_path / "2" / file).read_bytes() == (ours / file).read_bytes()


def test_the_projection_is_drawn_where_nobody_has_it(tmp_path, foreign):
  report = exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  assert "drawn anew: projection/kernel" in report
  found = model_folder.read(tmp_path / "ours").arrays
  kernel = found["projection/kernel"].whole()
  assert np.isfinite(kernel).all() and 0 < kernel.std() < 1
  expected = numbers()["vit/positions"]
  np.testing.assert_array_equal(found["vit/positions"].whole(), expected)


def test_writes_bfloat16(tmp_path, foreign, rest):
  half = np.dtype(ml_dtypes.bfloat16)
  exchange.bring_in(foreign, tmp_path / "ours", half, projection=rest)
  check(tmp_path / "ours", {n: x.astype(half) for n, x in numbers().items()})


def test_a_tower_of_big_vision(tmp_path, foreign):
  np.savez(tmp_path / "x.npz", **test_big_vision.tower())
  parts = foreign | {"image": f"big_vision:{tmp_path / 'x.npz'}"}
  exchange.bring_in(parts, tmp_path / "ours", FLOAT)
  arrays = model_folder.read(tmp_path / "ours").arrays
  test_big_vision.check(arrays)


def test_ours_loads_into_shardings_of_a_dtype(tmp_path, foreign, rest):
  exchange.bring_in(foreign, tmp_path / "ours", FLOAT, projection=rest)
  mesh = jax.make_mesh((8,), ("fsdp",))
  shapes = families.Shapes("pali", OPTIONS)

  def target(name):
    spec = ["fsdp" if n == "embed" else None for n in shapes.axes[name]]
    if spec.count("fsdp") > 1:
      spec[-1] = None
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    shape = shapes.named[name].shape
    return jax.ShapeDtypeStruct(shape, jax.numpy.bfloat16, sharding=sharding)

  tree = trees.nest({name: target(name) for name in shapes.named})
  loaded = model_folder.load(tmp_path / "ours", tree, shapes.axes)
  for name, array in trees.flatten_with_names(loaded).items():
    assert array.sharding == target(name).sharding
    np.testing.assert_array_equal(
      array, numbers()[name].astype(ml_dtypes.bfloat16), err_msg=name
    )


def test_another_vocabulary_is_called_so_before_anything_is_read(
  tmp_path, foreign, rest, monkeypatch
):
  exchange.bring_in(foreign, tmp_path / "ours", FLOAT, projection=rest)
  shapes = families.Shapes("pali", OPTIONS | {"vocab_size": 20})
  monkeypatch.setattr(jax, "device_put", None)
  with pytest.raises(ValueError, match="2 arrays differ") as error:
    model_folder.load(tmp_path / "ours", shapes.named, shapes.axes)
  assert str(error.value).count("The vocabularies differ in size.") == 2
  assert "embedding/table has shape (16, 8), expected (20, 8)" in str(
    error.value
  )


def test_weights_of_another_config_are_listed(tmp_path, foreign):
  path = tmp_path / "text" / "config.json"
  config = json.loads(path.read_text()) | {"d_ff": 12, "num_layers": 3}
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError) as error:
    exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  message = str(error.value)
  # A third block of eight arrays; nine arrays of MLPs have another width.
  assert "missing encoder.block.2.layer.0.SelfAttention.q.weight" in message
  assert "DenseReluDense.wi_0.weight has shape (8, 8), expected (12, 8)" in (
    message
  )
  assert not (tmp_path / "ours").exists()


def test_config_whose_vocabulary_is_not_the_weights(tmp_path, foreign):
  path = tmp_path / "text" / "config.json"
  config = json.loads(path.read_text()) | {"vocab_size": 20}
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError, match="The vocabularies differ in size"):
    exchange.bring_in(foreign, tmp_path / "ours", FLOAT)


def test_nan_weights_leave_no_folder(tmp_path, foreign):
  file = tmp_path / "text" / hf.WEIGHTS
  data = bytearray(file.read_bytes())
  # In place: our own writer refuses it.
  array = hf.scan(tmp_path / "text")["encoder.final_layer_norm.weight"].whole()
  at = data.index(array.tobytes())
  data[at + 12 : at + 16] = np.float32(np.nan).tobytes()
  file.write_bytes(data)
  with pytest.raises(
    ValueError, match=r"encoder\.final_layer_norm\.weight of .* has 1 values"
  ):
    exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  assert {p.name for p in tmp_path.iterdir()} == {*PARTS}


@pytest.mark.parametrize(
  "parts,message",
  [
    ({None: "text"}, "a pali needs each of .*once, as --image="),
    ({"image": "text", "text": "text"}, "--image=hf:.* is the text of pali"),
    ({None: "nowhere"}, "no .*config.json"),
  ],
)
def test_parts_that_make_no_model(tmp_path, foreign, parts, message):
  parts = {part: f"hf:{tmp_path / name}" for part, name in parts.items()}
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    exchange.bring_in(parts, tmp_path / "ours", FLOAT)


def test_unknown_formats_families_and_model_types(tmp_path):
  with pytest.raises(ValueError, match="'keras' is not a format; hf, big"):
    exchange.kind("keras:x")
  (tmp_path / "config.json").write_text('{"model_type": "clip"}')
  with pytest.raises(ValueError, match=r"'clip'; known are .*t5 \(pali\)"):
    exchange.bring_in({None: f"hf:{tmp_path}"}, tmp_path / "o", FLOAT)
  with pytest.raises(FileNotFoundError, match=r"model\.json; expected"):
    exchange.export(tmp_path, tmp_path / "o", FLOAT)


def _without_a_head(folder, **fields):
  arrays = {n: x for n, x in hf.scan(folder).items() if "lm_head" not in n}
  config = hf.read_config(folder) | fields
  out = folder.with_name("no_head")
  hf.write(out, config, wrapped({n: x.whole() for n, x in arrays.items()}))
  return f"hf:{out}"


@pytest.mark.parametrize(
  "fields",
  [
    {"model_type": "t5", "scale_decoder_outputs": False},
    {"model_type": "mt5"},
  ],
)
def test_a_head_that_transformers_5_takes_from_the_embedding(
  tmp_path, foreign, fields
):
  """And does not scale, as it does for a T5 1.0."""
  fields |= {"tie_word_embeddings": True}
  where = _without_a_head(tmp_path / "text", **fields)
  parts, ours = foreign | {"text": where}, tmp_path / "ours"
  report = exchange.bring_in(parts, ours, FLOAT)
  assert f"lm_head.weight is not in {where}: from shared.weight" in report
  saved = model_folder.read(ours)
  assert saved.options["is_head_tied"] is False
  head, table = (
    saved.arrays[name].whole() for name in ("head/kernel", "embedding/table")
  )
  np.testing.assert_array_equal(head, table.T)


def test_a_head_of_its_own_that_is_not_there(tmp_path, foreign):
  where = _without_a_head(tmp_path / "text", tie_word_embeddings=False)
  with pytest.raises(ValueError, match=r"missing lm_head\.weight \(16, 8\)"):
    exchange.bring_in(foreign | {"text": where}, tmp_path / "ours", FLOAT)


T5_FIELDS = {
  "dense_act_fn": ("gelu", "dense_act_fn='gelu'; pali computes with 'gelu_new"),
  "is_gated_act": (False, "is_gated_act=False; pali computes with True"),
}


@pytest.mark.parametrize("field", T5_FIELDS)
def test_fields_that_overrule_the_kind_of_mlp(tmp_path, foreign, field):
  value, message = T5_FIELDS[field]
  path = tmp_path / "text" / "config.json"
  config = json.loads(path.read_text())
  usual = {"dense_act_fn": "gelu_new", "is_gated_act": True}
  path.write_text(json.dumps(config | usual))
  exchange.bring_in(foreign, tmp_path / "usual", FLOAT)
  path.write_text(json.dumps(config | usual | {field: value}))
  with pytest.raises(ValueError, match=message):
    exchange.bring_in(foreign, tmp_path / "ours", FLOAT)


def test_full_folders_are_left_alone(tmp_path, foreign):
  with pytest.raises(FileExistsError, match="is not empty"):
    exchange.bring_in(foreign, tmp_path / "text", FLOAT)
  exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  with pytest.raises(FileExistsError, match="is not empty"):
    exchange.export(tmp_path / "ours", tmp_path / "text", FLOAT)


def write_retrieval(folder):
  """A Blip2ForImageTextRetrieval's folder; our arrays, all of them."""
  options = blip2_sizes.get("debug_itm") | dict(vocab_size=9, has_lm_head=True)
  cls = "retrieval.Retrieval"
  named = families.Shapes("blip2", options, cls).named
  rng = np.random.default_rng(0)
  arrays = {
    n: rng.standard_normal(x.shape).astype(np.float32) for n, x in named.items()
  }
  table = blip2_params.table(options, "retrieval")
  config = blip2_config.config(options, "retrieval", rows=9)
  hf.write(folder, config, convert.theirs(wrapped(arrays), table))
  return arrays


def test_a_class_other_than_model_there_and_back(tmp_path):
  arrays = write_retrieval(tmp_path / "itm")
  where, ours = {None: f"hf:{tmp_path / 'itm'}"}, tmp_path / "ours"
  report = exchange.bring_in(where, ours, FLOAT, changes={"has_lm_head": True})
  drawn = {x.removeprefix("drawn anew: ") for x in report if "drawn" in x}
  assert drawn == {*blip2_params.FRESH}
  assert model_folder.read(ours).cls == "retrieval.Retrieval"
  report = exchange.export(ours, tmp_path / "out", FLOAT)
  assert "temperature" in report[-1] and "lm_head/bias" in report[-1]
  for name, array in hf.scan(tmp_path / "itm").items():
    again = hf.scan(tmp_path / "out")[name].whole()
    np.testing.assert_array_equal(again, array.whole(), err_msg=name)
  exchange.bring_in(
    {None: f"hf:{tmp_path / 'out'}"},
    tmp_path / "2",
    FLOAT,
    projection=f"{tmp_path / 'out'}/rest",
    changes={"has_lm_head": True},
  )
  again = model_folder.read(tmp_path / "2").arrays
  for name, array in model_folder.read(ours).arrays.items():
    np.testing.assert_array_equal(again[name].whole(), array.whole())
    if name not in drawn:
      np.testing.assert_array_equal(array.whole(), arrays[name])
  # Without it there is nothing more but the temperature.
  report = exchange.bring_in(where, tmp_path / "3", FLOAT)
  assert [x for x in report if "drawn" in x] == ["drawn anew: temperature"]


def test_options_that_there_are_not_or_that_a_file_decides(tmp_path):
  write_retrieval(tmp_path / "itm")
  where = {None: f"hf:{tmp_path / 'itm'}"}
  for changes, message in (
    ({"has_lm_haed": True}, "has_lm_haed is no option.*has_lm_head"),
    ({"vit_depth": 3}, r"options \['vit_depth'\] are decided by hf:"),
  ):
    with pytest.raises(ValueError, match=message):
      exchange.bring_in(where, tmp_path / "o", FLOAT, changes=changes)


def test_a_class_that_there_is_not(tmp_path, rest):
  path = pathlib.Path(rest, "model.json")
  about = json.loads(path.read_text())
  path.write_text(json.dumps(about | {"class": "sizes.get"}))
  with pytest.raises(ValueError, match=r"'sizes\.get'; it has \['model\.Mod"):
    exchange.export(rest, tmp_path / "out", FLOAT)
  del about["class"], about["options"]
  path.write_text(json.dumps(about))
  with pytest.raises(ValueError, match=r"model\.json lacks class, options"):
    exchange.export(rest, tmp_path / "out", FLOAT)


def test_images_of_another_size_at_once_or_later(tmp_path, foreign, rest):
  bring_in = functools.partial(
    exchange.bring_in, foreign, dtype=FLOAT, projection=rest
  )
  report = bring_in(to=tmp_path / "at_once", image_px=8)
  assert "positions: of 6 pixels, for 8 now, bicubic" in report
  bring_in(to=tmp_path / "ours")
  report = exchange.resize(tmp_path / "ours", tmp_path / "later", FLOAT, 8)
  assert "positions: of 6 pixels, for 8 now, bicubic" in report
  for file in ("model.json", "model.safetensors"):
    later = (tmp_path / "later" / file).read_bytes()
    assert later == (tmp_path / "at_once" / file).read_bytes()
  saved = model_folder.read(tmp_path / "later")
  assert saved.options["image_size"] == 8
  # What is there is what a model of those options has.
  shapes = families.Shapes("pali", saved.options)
  loaded = model_folder.load(tmp_path / "later", shapes.tree, shapes.axes)
  table = trees.flatten_with_names(loaded)["vit/positions"]
  before = jax.numpy.asarray(numbers()["vit/positions"])
  expected = resize.positions(before, (3, 3), (4, 4), "bicubic")
  np.testing.assert_array_equal(table, expected)
  for call in (
    lambda to: bring_in(to=to, image_px=7),
    lambda to: exchange.resize(tmp_path / "ours", to, FLOAT, 7),
  ):
    with pytest.raises(ValueError, match=r"multiple of 2: .*nearest is 8"):
      call(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_big_visions_are_resized_as_there(tmp_path, foreign):
  np.savez(tmp_path / "x.npz", **test_big_vision.tower())
  parts = foreign | {"image": f"big_vision:{tmp_path / 'x.npz'}"}
  exchange.bring_in(parts, tmp_path / "ours", FLOAT)
  saved = model_folder.read(tmp_path / "ours")
  px = saved.options["image_size"]
  report = exchange.bring_in(parts, tmp_path / "2", FLOAT, image_px=2 * px)
  assert any(line.endswith("now, bilinear_corners") for line in report)
  before, after = (
    model_folder.read(tmp_path / name).arrays["vit/positions"].whole()
    for name in ("ours", "2")
  )
  assert len(after) == 4 * len(before)
  # Corners stay.
  np.testing.assert_allclose(after[[0, -1]], before[[0, -1]], atol=1e-6)


def _cut_off(data):
  return data[:-10]


def _cut_off_in_the_header(data):
  return data[:40]


def _longer(data):
  return data + b"1234"


def _lie(change):
  """Rewrites the header's entry of one array."""

  def rewrite(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header["vit/norm/scale"])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]

  return rewrite


def _shifted(entry):
  entry["data_offsets"] = [n + 4 for n in entry["data_offsets"]]


def _other_weights(data):
  """One array is of another name; the file itself is sound."""
  return data.replace(b'"vit/norm/scale"', b'"vit/norm/scald"')


def _not_a_number(data):
  array = numbers()["vit/norm/scale"].tobytes()
  assert data.count(array) == 1
  nan = np.float32(np.nan).tobytes()
  return data.replace(array, nan + array[4:])


DAMAGES = {
  "cut off": (_cut_off, r"bytes\) is cut off or damaged: its arrays would end"),
  "cut off, header": (_cut_off_in_the_header, "damaged: its header would be"),
  "longer": (_longer, "damaged: its arrays would end at byte"),
  "shape": (
    _lie(lambda e: e.update(shape=[9])),
    "damaged: vit/norm/scale, F32 .9., has 32 bytes",
  ),
  "offsets": (
    _lie(_shifted),
    "damaged: vit/norm/scale begins at .*before ends",
  ),
  "dtype": (_lie(lambda e: e.update(dtype="F16")), "F16 .8., has 32 bytes"),
  "no integers": (
    _lie(lambda e: e.update(dtype="I32")),
    "vit/norm/scale has dtype I32, expected a float",
  ),
  "names": (
    _other_weights,
    r"(?s)2 arrays differ.*missing vit/norm/scale \(8,\).*unused vit/norm/scald",
  ),
  "NaN": (_not_a_number, r"(?s)NaN or infinite:\n  vit/norm/scale .*: 1 of 8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_ours_before_any_device_is_touched(
  tmp_path, monkeypatch, damage
):
  change, message = DAMAGES[damage]
  folder = tmp_path / "ours"
  model_folder.write(folder, "pali", OPTIONS, wrapped(numbers()))
  shapes = families.Shapes("pali", OPTIONS)
  model_folder.load(folder, shapes.tree, shapes.axes)
  file = folder / hf.WEIGHTS
  file.write_bytes(change(file.read_bytes()))
  monkeypatch.setattr(jax, "device_put", None)
  with pytest.raises(ValueError, match=message):
    model_folder.load(folder, shapes.tree, shapes.axes)


@pytest.mark.parametrize("family", families.names())
def test_sizes_that_there_are_not(family):
  sizes = families.module(family, "sizes")
  with pytest.raises(KeyError) as error:
    sizes.get("enormous")
  assert all(name in str(error.value) for name in ("enormous", *sizes.SIZES))


FLAGS = {
  "both": ({"from": "hf:x", "image": "hf:y"}, "give --from, or --image and"),
  "neither": ({}, "give --from, or --image and --text"),
  "size of theirs": (
    {"from": "ours", "to": "hf:out", "image_px": "8"},
    "--image_px makes a folder of ours",
  ),
  "check of ours": (
    {"from": "ours", "image_px": "8", "check": "true"},
    "--check compares with transformers: --from=hf:DIR",
  ),
  "options of ours": (
    {"from": "ours", "image_px": "8", "options": '{"remat": "full"}'},
    "--options and --projection are for weights of other projects; ours has",
  ),
  "adapter of theirs": (
    {"from": "hf:x", "peft": "p"},
    "--peft merges into a folder of ours: --from=DIR --peft=DIR --to=DIR",
  ),
  "adapter to theirs": (
    {"from": "ours", "peft": "p", "to": "hf:x"},
    "--peft makes a folder of ours",
  ),
  "no JSON": ({"from": "hf:x", "options": "{x}"}, "--options={x} is not JSON"),
  "no object": ({"from": "hf:x", "options": "[1]"}, "is no JSON object"),
  "of no other project": ({"from": "ours"}, "ours is of no other project"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_do_not_go_together(name):
  given, message = FLAGS[name]
  flags.FLAGS.mark_as_parsed()
  with flagsaver.as_parsed(**{"to": "out"} | given):
    with pytest.raises(ValueError, match=message):
      command.main(None)


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "vpd_jax.convert", *flags],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
  )


def test_from_a_shell(tmp_path, foreign, rest):
  done = run(
    f"--image={foreign['image']}",
    f"--text={foreign['text']}",
    f"--projection={rest}",
    f"--to={tmp_path / 'ours'}",
  )
  assert done.returncode == 0, done.stderr
  assert f"wrote {tmp_path / 'ours'}: 0.0 MB" in done.stdout
  check(tmp_path / "ours", numbers())
  said = entries.call(
    *("convert", f"--from={tmp_path / 'ours'}", f"--to={tmp_path / '8'}"),
    "--image_px=8",
  )
  assert "positions: of 6 pixels, for 8 now, bicubic" in said
  assert model_folder.read(tmp_path / "8").options["image_size"] == 8
  file = tmp_path / "image" / hf.WEIGHTS
  file.write_bytes(file.read_bytes()[:-10])
  done = run(
    *(f"--{part}={where}" for part, where in foreign.items()),
    f"--to={tmp_path / 'cut'}",
  )
  assert done.returncode == 1
  assert f"error: {file} (" in done.stderr and "cut off or" in done.stderr
  assert "Traceback" not in done.stderr
  message = "--to=hf:DIR writes a model of ours"
  with pytest.raises(ValueError, match=message):
    entries.call(
      "convert", f"--from={foreign['text']}", f"--to=hf:{tmp_path / 'x'}"
    )
