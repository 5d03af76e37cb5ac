"""The command's own comparison with transformers, in both directions."""

import functools
import importlib
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from vpd_jax import step
from vpd_jax.checkpoint import (
  convert,
  exchange,
  families,
  hf,
  model_folder,
  reference,
  resolution,
)
from vpd_jax.input import images

FAMILY = "PaLI: convert --check"
FLOAT = np.dtype(np.float32)
# Model -> (module of tests.parity, function that writes it, its arguments,
# part, a size of images that is not its 42).
MODELS = {
  "BLIP-2": ("blip2", "write_generation", ["BLIP-2 Flan-T5"], "model", 70),
  "BLIP-2, retrieval": ("blip2", "write_retrieval", [95], "retrieval", 28),
  "PaliGemma 1": ("paligemma", "write", ["PaliGemma 1"], "model", 28),
  "PaliGemma 2": ("paligemma", "write", ["PaliGemma 2"], "model", 56),
  "T5Gemma 2": ("t5gemma2", "write", [], "model", 56),
}
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def foreign(pali_reference, tmp_path_factory):
  """part -> hf:DIR."""
  folder = tmp_path_factory.mktemp("convert")
  pali_reference.write_t5(folder / "text", "T5 v1.1, Flan-T5")
  pali_reference.write_siglip(folder / "image")
  return {part: f"hf:{folder / part}" for part in ("text", "image")}


@pytest.fixture
def write(references):
  """(name of MODELS, folder) -> None."""

  def write(name, folder):
    module, function, arguments, *_ = MODELS[name]
    module = importlib.import_module(f"tests.parity.{module}_reference")
    getattr(module, function)(folder, *arguments)

  return write


def worst(report, count):
  """The largest difference of a report that has so many."""
  checked = [line for line in report if "outputs differ by" in line]
  assert len(checked) == count, report
  return max(float(x.split("differ by ")[1].split()[0]) for x in checked)


def test_checks_what_it_read_and_what_it_wrote(
  foreign, references, compare, tmp_path
):
  ours, out = tmp_path / "ours", tmp_path / "out"
  report = exchange.bring_in(foreign, ours, FLOAT, is_checked=True)
  report += exchange.export(ours, out, FLOAT, is_checked=True)
  found = worst(report, 4)
  compare(FAMILY, references.VERSION, "outputs, relative", found, 1e-4)
  for part, where in foreign.items():
    original = references.arrays(type(out)(where.removeprefix("hf:")))
    # The image tower is written with the hub's prefix.
    for name, array in references.arrays(out / part).items():
      name = name.removeprefix("vision_model.")
      np.testing.assert_array_equal(array, original[name])


@pytest.mark.parametrize("name", MODELS)
def test_checks_every_family(name, write, references, compare, tmp_path):
  part = MODELS[name][3]
  write(name, tmp_path / "model")
  where = {None: f"hf:{tmp_path / 'model'}"}
  ours, out = tmp_path / "ours", tmp_path / "out"
  report = exchange.bring_in(where, ours, FLOAT, is_checked=True)
  report += exchange.export(ours, out, FLOAT, is_checked=True)
  assert all(f"{part}: outputs" in x for x in report if "outputs" in x)
  family, what = f"{name}: convert --check", "outputs, relative"
  compare(family, references.VERSION, what, worst(report, 2), 1e-4)
  original = references.arrays(tmp_path / "model")
  written = references.arrays(out)
  assert len(written) == len(original)
  for key, array in written.items():
    np.testing.assert_array_equal(array, original[key], err_msg=key)


@pytest.mark.parametrize("name", ["SigLIP", *MODELS])
def test_images_of_another_size(
  name, foreign, write, references, compare, tmp_path
):
  """As transformers with interpolate_pos_encoding=True."""
  ours, px, part = tmp_path / "ours", 70, "image"
  if name == "SigLIP":
    parts, folder = foreign, foreign["image"].removeprefix("hf:")
  else:
    *_, part, px = MODELS[name]
    folder = tmp_path / "model"
    write(name, folder)
    parts = {None: f"hf:{folder}"}
  report = exchange.bring_in(parts, ours, FLOAT, image_px=px, is_checked=True)
  assert f"positions: of 42 pixels, for {px} now, bicubic" in report
  found = worst(report, len(parts))
  what = f"outputs, relative, {px} pixels of 42"
  compare(f"{name}: convert --check", references.VERSION, what, found, 1e-4)
  # Later is the same as at once.
  exchange.bring_in(parts, tmp_path / "before", FLOAT)
  exchange.resize(tmp_path / "before", tmp_path / "after", FLOAT, px)
  tables = [
    model_folder.read(where).arrays[resolution.TABLE].whole()
    for where in (ours, tmp_path / "after")
  ]
  np.testing.assert_array_equal(*tables)
  # And the check sees how it was done.
  saved = model_folder.read(ours)
  moved = np.roll(tables[0], 1, axis=0)
  wrong = convert.in_memory(moved, "moved")
  arrays = saved.arrays | {resolution.TABLE: wrong}
  model_folder.write(
    tmp_path / "wrong", saved.family, saved.options, arrays, cls=saved.cls
  )
  with pytest.raises(ValueError, match="is written, but is not equal"):
    reference.compare(tmp_path / "wrong", {part: folder})


def test_pictures_of_any_shape(
  foreign, references, pali_reference, compare, tmp_path
):
  import transformers

  config = transformers.Siglip2VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    patch_size=4,
    num_patches=16,
    vision_use_head=False,
  )
  cls = transformers.Siglip2VisionModel

  def draw(name, shape, rng):
    is_scale = "norm" in name and name.endswith("weight")
    return references.draw(name, shape, rng, is_scale)

  shapes = references.shapes(cls(config))
  references.write(tmp_path / "image", config.to_dict(), shapes, draw)
  parts = foreign | {"image": f"hf:{tmp_path / 'image'}"}
  bring_in = functools.partial(exchange.bring_in, parts, dtype=FLOAT)
  report = bring_in(to=tmp_path / "ours", is_checked=True)
  report += exchange.export(
    tmp_path / "ours", tmp_path / "out", FLOAT, is_checked=True
  )
  compare(
    "SigLIP 2 NaFlex: convert --check",
    references.VERSION,
    "outputs, relative",
    worst(report, 4),
    1e-4,
  )
  with pytest.raises(ValueError, match="NaFlex, which takes images of any"):
    bring_in(to=tmp_path / "resized", image_px=24)
  assert not (tmp_path / "resized").exists()


def test_bfloat16_has_a_wider_bound(foreign, tmp_path):
  half = np.dtype(ml_dtypes.bfloat16)
  report = exchange.bring_in(foreign, tmp_path / "o", half, is_checked=True)
  assert sum("bound 0.05" in line for line in report) == 2


def test_weights_that_differ_are_found(foreign, tmp_path):
  exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  changed = tmp_path / "text"
  shutil.copytree(foreign["text"].removeprefix("hf:"), changed)
  array = hf.scan(changed)["encoder.final_layer_norm.weight"].whole()
  data = (changed / hf.WEIGHTS).read_bytes()
  assert data.count(array.tobytes()) == 1
  (changed / hf.WEIGHTS).write_bytes(
    data.replace(array.tobytes(), (array * 1.01).tobytes())
  )
  with pytest.raises(ValueError, match=r"text: outputs differ by .* not equal"):
    reference.compare(tmp_path / "ours", {"text": changed})


@pytest.mark.parametrize("kind", ["T5 v1.1", "mT5"])
def test_heads_that_transformers_5_ties(
  foreign, references, compare, tmp_path, kind
):
  """Saved without one; the embedding is it there, and nothing is scaled."""
  import transformers

  fields: dict = dict(
    vocab_size=96,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=4,
    num_layers=2,
    decoder_start_token_id=0,
  )
  if kind == "mT5":
    config = transformers.MT5Config(**fields)
    made = transformers.MT5ForConditionalGeneration(config)
  else:
    config = transformers.T5Config(
      feed_forward_proj="gated-gelu", tie_word_embeddings=False, **fields
    )
    made = transformers.T5ForConditionalGeneration(config)
  made.save_pretrained(tmp_path / "text")
  assert "lm_head.weight" not in hf.scan(tmp_path / "text")
  parts = foreign | {"text": f"hf:{tmp_path / 'text'}"}
  report = exchange.bring_in(parts, tmp_path / "ours", FLOAT, is_checked=True)
  report += exchange.export(
    tmp_path / "ours", tmp_path / "out", FLOAT, is_checked=True
  )
  compare(
    f"{kind}, tied and not scaled",
    references.VERSION,
    "outputs, relative",
    worst(report, 4),
    1e-4,
  )


def test_pictures_that_patches_do_not_fill(
  foreign, references, compare, tmp_path
):
  """Resized as the processor does it, then cut, as the convolution does."""
  import torch
  import transformers

  folder = tmp_path / "image"
  shutil.copytree(foreign["image"].removeprefix("hf:"), folder)
  config = json.loads((folder / hf.CONFIG).read_text()) | {"image_size": 47}
  (folder / hf.CONFIG).write_text(json.dumps(config))
  # The one with PIL: its pixels are ours to the level.
  processor = transformers.SiglipImageProcessorPil(
    size={"height": 47, "width": 47}
  )
  processor.save_pretrained(folder)
  parts = foreign | {"image": f"hf:{folder}"}
  ours = tmp_path / "ours"
  report = exchange.bring_in(parts, ours, FLOAT, is_checked=True)
  report += exchange.export(ours, tmp_path / "out", FLOAT, is_checked=True)
  worst(report, 4)
  saved = model_folder.read(ours)
  assert saved.image == {"kernel": "bicubic", "resize_px": 47}
  assert saved.options["image_size"] == 42
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (90, 70, 3), np.uint8)
  theirs = references.load(transformers.SiglipVisionModel, folder)
  with torch.no_grad():
    pixels = processor(picture, return_tensors="pt").pixel_values
    expected = theirs(pixels).last_hidden_state.numpy()
  shapes = families.Shapes(saved.family, saved.options, saved.cls)
  params = model_folder.load(ours, shapes.tree)
  model = step.merge(shapes.graphdef, params)
  found = {}
  for name, side in (("cut", 47), ("squeezed", 42)):
    image = images.resize(picture, (side, side), saved.image["kernel"])
    tokens = np.asarray(model.vit(image[None, :42, :42]))
    found[name] = np.abs(tokens - expected).max() / np.abs(expected).max()
  compare(
    "SigLIP, 47 pixels of 42",
    references.VERSION,
    "tokens of a picture, relative",
    found["cut"],
    1e-4,
  )
  assert found["squeezed"] > 10 * found["cut"]
  # The check sees it if our pictures would be squeezed.
  about = json.loads((ours / model_folder.NAME).read_text())
  about["image"] = {"kernel": "bicubic"}
  (ours / model_folder.NAME).write_text(json.dumps(about))
  with pytest.raises(ValueError, match="to 42 pixels for ours and to 47 for"):
    reference.compare(ours, {"image": folder})


def test_exact_gelu_of_a_t5_counts_there_and_is_refused_here(
  foreign, references, tmp_path
):
  import transformers

  folder = tmp_path / "text"
  shutil.copytree(foreign["text"].removeprefix("hf:"), folder)
  config = json.loads((folder / hf.CONFIG).read_text())
  assert config["feed_forward_proj"] == "gated-gelu"
  config["dense_act_fn"] = "gelu"
  (folder / hf.CONFIG).write_text(json.dumps(config))
  theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder)
  act = theirs.encoder.block[0].layer[1].DenseReluDense.act
  assert type(act) is transformers.activations.GELUActivation
  with pytest.raises(ValueError, match="dense_act_fn='gelu'; pali computes w"):
    exchange.bring_in(
      foreign | {"text": f"hf:{folder}"}, tmp_path / "ours", FLOAT
    )
