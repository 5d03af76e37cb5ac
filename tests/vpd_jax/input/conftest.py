"""Small data sets of TFRecords, written by the test."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from vpd_jax.input import schema, tfrecord


def _encode_image(seed: int, size_px: int = 8, form: str = "PNG") -> bytes:
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (size_px, size_px, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form)
  return file.getvalue()


@pytest.fixture
def encode_image():
  """(seed, size_px, form) -> bytes of a random picture."""
  return _encode_image


@pytest.fixture
def make_record():
  """(number, **fields) -> a record whose answer is its number."""

  def make(number: int, **fields):
    return {
      "example_id": f"q{number}",
      "image_id": f"i{number}",
      "image": _encode_image(number),
      "question": "What color is it?",
      "answer": str(number),
      "answers": [str(number)],
      "rationale": f"21 62 229 271 ; {number}",
      **fields,
    }

  return make


@pytest.fixture
def write_split(tmp_path, make_record):
  """Writes records as shards of NAME-SPLIT; returns the folder.

  Without records it makes `count` of them, numbered from `start`.
  """

  def write(
    count=0,
    *,
    records=None,
    start=0,
    name="toy",
    split="train",
    num_shards=2,
  ) -> pathlib.Path:
    if records is None:
      records = [make_record(start + i) for i in range(count)]
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    for shard, part in enumerate(
      np.array_split(np.arange(len(records)), num_shards)
    ):
      path = folder / f"{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"
      payloads = [schema.serialize(records[i]) for i in part]
      path.write_bytes(b"".join(tfrecord.frame(p) for p in payloads))
    return folder

  return write
