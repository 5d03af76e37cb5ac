"""A run that starts from a folder sees pictures as its weights did."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests import configs, train_runs
from tests.vpd_jax import test_convert, test_export
from vpd_jax import build, run_evaluation, run_export, run_record
from vpd_jax.checkpoint import exchange, hf, model_folder
from vpd_jax.input import pipeline, tasks
from vpd_jax.models.blip2 import sizes as blip2_sizes

FLOAT = np.dtype(np.float32)
PROCESSOR = {
  "do_resize": True,
  "size": {"height": 7, "width": 7},
  "resample": 2,
  "rescale_factor": 1 / 255,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
}


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def foreign(tmp_path):
  """A T5 and a SigLIP of 7 pixels, of which 3 patches of 2 cover 6."""
  test_export.write_foreign(tmp_path)
  edit(tmp_path / "image" / hf.CONFIG, image_size=7)
  file = tmp_path / "image" / "preprocessor_config.json"
  file.write_text(json.dumps(PROCESSOR))
  return {part: f"hf:{tmp_path / part}" for part in test_export.PARTS}


@pytest.fixture
def ours(foreign, tmp_path):
  exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  return tmp_path / "ours"


def config_of(folder, **changes):
  config = configs.load("debug.py")
  config.model = dict(name="pali", size=str(folder))
  config.init = str(folder)
  config.input.update(image_px=6, **changes)
  return config


def test_what_a_processor_says_is_kept(foreign, tmp_path):
  report = exchange.bring_in(foreign, tmp_path / "1", FLOAT)
  line = (
    "pictures: bilinear, as preprocessor_config.json says; resized to 7"
    " pixels, of which patches cover the first 6"
  )
  assert line in report
  saved = model_folder.read(tmp_path / "1")
  assert saved.image == {"kernel": "bilinear", "resize_px": 7}
  assert saved.options["image_size"] == 6
  # Newer versions of transformers write one file for text and pictures.
  (tmp_path / "image" / "preprocessor_config.json").unlink()
  both = {"image_processor": PROCESSOR | {"resample": 3}}
  (tmp_path / "image" / "processor_config.json").write_text(json.dumps(both))
  exchange.bring_in(foreign, tmp_path / "2", FLOAT)
  image = model_folder.read(tmp_path / "2").image
  assert image == {"kernel": "bicubic", "resize_px": 7}
  # The side is config.json's; the kernel nobody says.
  (tmp_path / "image" / "processor_config.json").unlink()
  report = exchange.bring_in(foreign, tmp_path / "3", FLOAT)
  assert any("no preprocessor_config.json" in line for line in report)
  assert model_folder.read(tmp_path / "3").image == {"resize_px": 7}
  # For pictures of another size patches fill them.
  exchange.bring_in(foreign, tmp_path / "4", FLOAT, image_px=8)
  exchange.resize(tmp_path / "1", tmp_path / "5", FLOAT, 8)
  assert model_folder.read(tmp_path / "4").image == {}
  assert model_folder.read(tmp_path / "5").image == {"kernel": "bilinear"}
  exchange.export(tmp_path / "1", tmp_path / "out", FLOAT)
  assert hf.read_config(tmp_path / "out" / "image")["image_size"] == 7


@pytest.mark.parametrize(
  "change,message",
  [
    ({"image_mean": [0.4, 0.5, 0.5]}, r"image_mean=\[0.4, .* computes with"),
    ({"image_std": [1.0, 1.0, 1.0]}, r"image_std=\[1.0, .* only"),
    ({"image_std": ["1", 1.0, 1.0]}, r"image_std=\['1', .* only"),
    ({"size": {"height": 9, "width": 9}}, "to 9 pixels.*tower is for 7"),
    ({"do_center_crop": True}, "preprocessor_config.json: .*do_center_crop"),
    ({"resample": 4}, "'resample': 4"),
  ],
)
def test_what_a_processor_says_and_we_do_not_do(
  foreign, tmp_path, change, message
):
  edit(tmp_path / "image" / "preprocessor_config.json", **change)
  with pytest.raises(ValueError, match=message):
    exchange.bring_in(foreign, tmp_path / "ours", FLOAT)
  assert not (tmp_path / "ours").exists()


def test_training_and_evaluation_resize_as_the_weights_were_trained(
  ours, monkeypatch
):
  config = config_of(ours)
  parts = build.build(config)
  expected = {"image_kernel": "bilinear", "image_resize_px": 7}
  assert parts.row_options == expected
  given = {}
  monkeypatch.setattr(
    pipeline, "train_batches", lambda *_, **options: given.update(options)
  )
  build.train_batches(config, parts)
  assert expected.items() <= given.items()
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  encoded = io.BytesIO()
  Image.fromarray(picture).save(encoded, "PNG")
  texts = dict.fromkeys(("question", "answer", "rationale"), "red")
  record = texts | {
    "image": encoded.getvalue(),
    "image_id": "",
    "example_id": "",
  }
  row = tasks.to_arrays(
    record, parts.tokenizer, parts.lengths, image_px=6, **parts.row_options
  )
  resized = Image.fromarray(picture).resize((7, 7), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(row["image"], np.asarray(resized)[:6, :6])
  with pytest.raises(ValueError, match="image_resize_px=5 is less than image"):
    tasks.to_arrays(
      record, parts.tokenizer, parts.lengths, image_px=6, image_resize_px=5
    )


def test_another_kernel_than_the_weights_is_refused(ours):
  build.build(config_of(ours, image_kernel="bilinear"))
  with pytest.raises(
    ValueError, match=r"image_kernel='bicubic', but .*Leave it"
  ):
    build.build(config_of(ours, image_kernel="bicubic"))
  # By config.init alone too, and as whoever means it can say.
  config = config_of(ours, image_kernel="bicubic", image_resize_px=7)
  config.model = dict(
    name="pali", size="debug", **model_folder.read(ours).options
  )
  with pytest.raises(ValueError, match="image_kernel='bicubic', but"):
    build.build(config)
  edit(ours / model_folder.NAME, image={"kernel": "bicubic"})
  assert build.build(config).row_options["image_kernel"] == "bicubic"


def test_what_is_no_way_to_resize_is_named(ours):
  edit(ours / model_folder.NAME, image={"kernl": "bicubic"})
  with pytest.raises(ValueError, match=r"image\.kernl is no option.*kernel"):
    model_folder.read(ours)


@pytest.fixture
def of_patches(tmp_path, foreign):
  """Parts of which the tower is a NaFlex: 3 x 3 positions, patches of 2."""
  config = hf.read_config(tmp_path / "image")
  del config["image_size"]
  config |= {"model_type": "siglip2_vision_model", "num_patches": 9}
  arrays = {n: x.whole() for n, x in hf.scan(tmp_path / "image").items()}
  name = "vision_model.embeddings.patch_embedding.weight"
  arrays[name] = arrays[name].reshape(len(arrays[name]), -1)
  hf.write(tmp_path / "naflex", config, test_convert.wrapped(arrays))
  processor = {k: x for k, x in PROCESSOR.items() if k != "size"}
  processor |= {"resample": 3, "patch_size": 2, "max_num_patches": 16}
  (tmp_path / "naflex" / "preprocessor_config.json").write_text(
    json.dumps(processor)
  )
  return foreign | {"image": f"hf:{tmp_path / 'naflex'}"}


def test_a_naflex_tower_is_trained_evaluated_and_leaves(tmp_path, of_patches):
  report = exchange.bring_in(of_patches, tmp_path / "ours", FLOAT)
  assert (
    "pictures: bicubic, in patches of their own shape, as"
    " preprocessor_config.json says; as many as there: config.input.image_px=8"
  ) in report
  config = config_of(tmp_path / "ours")
  config.data_dir, config.input.image_px = train_runs.data(), 8
  config.total_steps = 2
  config.optim.warmup_steps = 0
  train_runs.train(config, tmp_path / "run")
  run_evaluation.write(config, str(tmp_path / "run"))
  report = json.loads((tmp_path / "run/evaluation.json").read_text())
  assert report["splits"]["validation"]["num_questions"] == 12
  run_export.write(config, str(tmp_path / "run"), str(tmp_path / "out"))
  out, ours = (model_folder.read(tmp_path / name) for name in ("out", "ours"))
  assert out.image == ours.image == {"kernel": "bicubic"}
  assert out.options == ours.options
  assert "vit/positions" in {
    name
    for name, x in out.arrays.items()
    if (x.whole() != ours.arrays[name].whole()).any()
  }
  exchange.export(tmp_path / "out", tmp_path / "hf", FLOAT)
  exchange.bring_in(
    {part: f"hf:{tmp_path / 'hf' / part}" for part in of_patches},
    tmp_path / "again",
    FLOAT,
    projection=tmp_path / "out",
  )
  for name, x in model_folder.read(tmp_path / "again").arrays.items():
    np.testing.assert_array_equal(x.whole(), out.arrays[name].whole(), name)


def test_what_a_naflex_tower_cannot_see_is_named(tmp_path, of_patches):
  exchange.bring_in(of_patches, tmp_path / "ours", FLOAT)
  config = config_of(tmp_path / "ours")
  for px in (9, 0):
    config.input.image_px = px
    with pytest.raises(ValueError, match=rf"image_px={px} is no multiple of"):
      build.build(config)
  config = config_of(tmp_path / "ours", image_resize_px=8)
  config.data_dir = train_runs.data()
  with pytest.raises(ValueError, match=r"image_resize_px=8 is for squares"):
    build.train_batches(config, build.build(config))
  file = tmp_path / "naflex" / "preprocessor_config.json"
  # A number that no square has: the report gives none.
  edit(file, max_num_patches=300)
  (line,) = (
    line
    for line in exchange.bring_in(of_patches, tmp_path / "2", FLOAT)
    if line.startswith("pictures:")
  )
  assert line.endswith("as preprocessor_config.json says")
  for field, value in (("resample", 0), ("do_center_crop", True)):
    edit(file, **{"resample": 3, field: value})
    message = rf"preprocessor_config.json: it asks for .*'{field}': {value}"
    with pytest.raises(ValueError, match=message):
      exchange.bring_in(of_patches, tmp_path / "3", FLOAT)


def test_a_retrieval_model_is_not_trained(tmp_path):
  test_convert.write_retrieval(tmp_path / "itm")
  exchange.bring_in({None: f"hf:{tmp_path / 'itm'}"}, tmp_path / "ours", FLOAT)
  config = config_of(tmp_path / "ours")
  config.model.name = "blip2"
  config.input.image_px = blip2_sizes.get("debug_itm")["image_size"]
  with pytest.raises(ValueError, match=r"is a blip2.retrieval\.Retrieval, whi"):
    build.build(config)


def test_other_weights_of_the_same_shapes_are_another_start(
  ours, foreign, tmp_path
):
  config = config_of(ours)
  run_record.write(tmp_path / "run", config)
  run_record.write(tmp_path / "run", config)  # The same: it goes on.
  text = (ours / model_folder.NAME).read_text()
  exchange.bring_in(foreign, tmp_path / "again", FLOAT)
  assert (tmp_path / "again" / model_folder.NAME).read_text() == text
  saved = model_folder.read(ours)
  arrays = {n: x.whole() for n, x in saved.arrays.items()}
  arrays["vit/norm/scale"] += 1
  ours.rename(tmp_path / "before")
  model_folder.write(
    ours,
    saved.family,
    saved.options,
    test_convert.wrapped(arrays),
    image=saved.image,
  )
  with pytest.raises(ValueError, match="sha256 of init: was"):
    run_record.write(tmp_path / "run", config)
  edit(ours / model_folder.NAME, digest=None)
  with pytest.raises(ValueError, match=r"model\.json lacks digest"):
    model_folder.read(ours)
