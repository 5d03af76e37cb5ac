"""The data set's folder as tensorflow-datasets sees it."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from data_gen import run, shard_files
from data_gen.writers import tfds_folder, tfrecord
from tests import configs
from vpd_jax.input import schema
from vpd_jax.input import tfrecord as framing

NAME = "mini"
SPLITS = {"train": 2, "test_iid": 1}


def example(split, shard, i):
  image = io.BytesIO()
  shape = (6 + i, 8, 3)
  pixels = np.full(shape, 40 * i, np.uint8)
  PIL.Image.fromarray(pixels).save(image, "PNG")
  return {
    "example_id": f"{split}-{shard}-{i}",
    "image": image.getvalue(),
    "image_id": f"image {i}",
    "question": "Où est « the cup »?",
    "answer": "left" if i else "",
    "answers": ["left", "to the left"][:i],
    "rationale": "1 2 3 4 ; left" if i else "",
    "regions": [[1, 2, 3, 4], [5, 6, 7, 999]][:i],
    "objects": [[0, 0, 1, 1]],
    "family": "f",
  }


@pytest.fixture
def folder(tmp_path):
  """Two splits, three shards, three examples each."""
  sizes = {}
  for split, num_shards in SPLITS.items():
    sizes[split] = []
    for index in range(num_shards):
      shard = shard_files.Shard(split, index, num_shards)
      path = tmp_path / tfrecord.file_name(NAME, shard)
      frames = [
        framing.frame(schema.serialize(example(split, index, i)))
        for i in range(3)
      ]
      path.write_bytes(b"".join(frames))
      sizes[split].append((3, path.stat().st_size))
  tfds_folder.write(tmp_path, NAME, "A test.", sizes)
  return tmp_path


def test_file_names(folder):
  assert sorted(p.name for p in folder.glob("*tfrecord*")) == [
    "mini-test_iid.tfrecord-00000-of-00001",
    "mini-train.tfrecord-00000-of-00002",
    "mini-train.tfrecord-00001-of-00002",
  ]


def test_dataset_info(folder):
  info = json.loads((folder / "dataset_info.json").read_text())
  train = info["splits"][0]
  assert (info["name"], info["fileFormat"]) == (NAME, "tfrecord")
  assert train["shardLengths"] == ["3", "3"]
  size = sum(p.stat().st_size for p in folder.glob("mini-train*"))
  assert train["numBytes"] == str(size)


def test_features_has_every_field():
  features = tfds_folder.features()["featuresDict"]["features"]
  assert set(features) == {field.name for field in schema.FIELDS}
  kinds = {
    field.kind: features[field.name]["pythonClassName"].rsplit(".", 1)[1]
    for field in schema.FIELDS
  }
  assert kinds == {
    "text": "Text",
    "texts": "Sequence",
    "image": "Image",
    "boxes": "Sequence",
  }


def tensorflow_datasets():
  reason = "needs the packages tensorflow and tensorflow-datasets"
  pytest.importorskip("tensorflow", reason=reason)
  return pytest.importorskip("tensorflow_datasets", reason=reason)


def check_reads_alike(tfds, folder, name, splits, decoders=None):
  """What tensorflow-datasets reads is what our reader reads."""
  builder = tfds.builder_from_directory(str(folder))
  assert set(builder.info.splits) == set(splits)
  for split, num_examples in splits.items():
    ours = {}
    for path in folder.glob(f"{name}-{split}.tfrecord-*"):
      with path.open("rb") as file:
        for payload in framing.read_frames(file, path.name):
          record = schema.parse(payload)
          ours[record["example_id"]] = record
    theirs = list(
      tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    )
    assert len(theirs) == len(ours) == num_examples
    assert builder.info.splits[split].num_examples == num_examples
    for row in theirs:
      record = ours[row["example_id"].decode()]
      for field in schema.FIELDS:
        found, expected = row[field.name], record[field.name]
        if field.kind == "text":
          assert found.decode() == expected
        elif field.kind == "texts":
          assert [text.decode() for text in found] == expected
        elif field.kind == "boxes":
          assert found.tolist() == expected
        elif decoders:
          assert found == expected
        else:
          with PIL.Image.open(io.BytesIO(expected)) as image:
            np.testing.assert_array_equal(found, np.asarray(image))


def test_tensorflow_datasets_reads_what_our_reader_reads(folder):
  tfds = tensorflow_datasets()
  check_reads_alike(tfds, folder, NAME, {s: 3 * n for s, n in SPLITS.items()})


def test_tensorflow_datasets_reads_a_made_data_set(tmp_path):
  tfds = tensorflow_datasets()
  config = configs.tiny_world()
  config["splits"] = {
    "train": {"num_images": 2, "num_shards": 2},
    "test_iid": {"num_images": 1, "num_shards": 1},
  }
  run.generate(config, tmp_path)
  check_reads_alike(
    tfds,
    tmp_path / "examples",
    "world",
    {"train": 8, "test_iid": 4},
    # As bytes: two decoders of one JPEG differ by a few levels.
    decoders={"image": tfds.decode.SkipDecoding()},
  )
