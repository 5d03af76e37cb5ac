"""The two files that make a folder of TFRecords a tensorflow-datasets folder.

    builder = tfds.builder_from_directory("WORKDIR/examples")
    dataset = builder.as_dataset(split="train")

Source: the JSON form of tensorflow_datasets' feature.proto and
dataset_info.proto, as its `FeaturesDict.save_config` and
`DatasetInfo.write_to_directory` write them.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_gen import shard_files
from vpd_jax.input import schema

_PACKAGE = "tensorflow_datasets.core.features"


def write(
  folder: pathlib.Path,
  name: str,
  description: str,
  splits: Mapping[str, Sequence[tuple[int, int]]],
) -> None:
  """Writes features.json and dataset_info.json.

  Args:
    folder: with the TFRecord files.
    name: of the data set, with which the file names begin.
    description: one line.
    splits: name -> (examples, bytes) of each shard, in order.
  """
  shard_files.write_json(folder / "features.json", features())
  info = {
    "name": name,
    "version": schema.VERSION,
    "description": description,
    "fileFormat": "tfrecord",
    "splits": [
      {
        "name": split,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "numBytes": str(sum(size for _, size in shards)),
        "shardLengths": [str(count) for count, _ in shards],
      }
      for split, shards in splits.items()
    ],
  }
  shard_files.write_json(folder / "dataset_info.json", info)


def features() -> dict[str, Any]:
  """The schema as tensorflow-datasets' features.json."""
  return {
    "pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict",
    "featuresDict": {
      "features": {field.name: _feature(field) for field in schema.FIELDS}
    },
  }


def _feature(field: schema.Field) -> dict[str, Any]:
  text = {"pythonClassName": f"{_PACKAGE}.text_feature.Text", "text": {}}
  if field.kind == "text":
    return {**text, "description": field.doc}
  if field.kind == "image":
    shape = {"dimensions": ["-1", "-1", "3"]}
    return {
      "pythonClassName": f"{_PACKAGE}.image_feature.Image",
      "description": field.doc,
      "image": {"shape": shape, "dtype": "uint8"},
    }
  inner = text
  if field.kind == "boxes":
    inner = {
      "pythonClassName": f"{_PACKAGE}.tensor_feature.Tensor",
      "tensor": {
        "shape": {"dimensions": ["4"]},
        "dtype": "int64",
        "encoding": "none",
      },
    }
  return {
    "pythonClassName": f"{_PACKAGE}.sequence_feature.Sequence",
    "description": field.doc,
    "sequence": {"feature": inner, "length": "-1"},
  }
