"""Shards are found or named as missing; records are read alone and checked."""

import concurrent.futures
import pickle

import pytest

from vpd_jax.input import records, tfrecord


def _write(path, payloads):
  path.write_bytes(b"".join(tfrecord.frame(p) for p in payloads))
  return path


@pytest.fixture
def source(tmp_path):
  """Five records in three files, one of them empty."""
  return records.RecordSource(
    [
      _write(tmp_path / "a", [b"0", b"", b"2" * 1000]),
      _write(tmp_path / "b", []),
      _write(tmp_path / "c", [b"3", b"4"]),
    ]
  )


def test_records_are_counted_over_files(source):
  assert len(source) == 5
  found = [source[i] for i in range(5)]
  assert found == [b"0", b"", b"2" * 1000, b"3", b"4"]
  for index in (-1, 5):
    with pytest.raises(IndexError, match=f"record {index} of 5"):
      source[index]


def test_source_can_be_pickled_and_shared_by_threads(source):
  copy = pickle.loads(pickle.dumps(source))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(copy.__getitem__, [i % 5 for i in range(400)]))
  assert found == [source[i % 5] for i in range(400)]


def test_damaged_payload_names_file_and_record(tmp_path):
  path = _write(tmp_path / "x.tfrecord", [b"good", b"broken"])
  damaged = bytearray(path.read_bytes())
  damaged[-6] ^= 1
  path.write_bytes(damaged)
  source = records.RecordSource([path])
  assert source[0] == b"good"
  message = r"x.tfrecord is damaged at record 1 \(byte 20\): wrong payload"
  with pytest.raises(ValueError, match=message):
    source[1]


def test_header_damaged_after_the_index_was_made_is_found(tmp_path):
  path = _write(tmp_path / "x", [b"good", b"broken"])
  source = records.RecordSource([path])
  damaged = bytearray(path.read_bytes())
  damaged[20] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match=r"record 1 .*wrong length checksum"):
    source[1]


@pytest.mark.parametrize(
  "cut, what", [(1, "ends in a record"), (17, "ends in a header")]
)
def test_truncated_file_is_found_when_opened(tmp_path, cut, what):
  path = _write(tmp_path / "x", [b"good", b"cut"])
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(
    ValueError, match=rf"record 1 \(byte 20\): the file {what}"
  ):
    records.RecordSource([path])


def test_shards_are_found_in_order(write_split):
  folder = write_split(12, num_shards=11)
  write_split(1, split="train_extra", num_shards=1)
  names = [path.name for path in records.find_shards(folder, "train")]
  assert names == [f"toy-train.tfrecord-{i:05d}-of-00011" for i in range(11)]


def test_missing_shards_are_named(write_split):
  folder = write_split(4, num_shards=4)
  (folder / "toy-train.tfrecord-00002-of-00004").unlink()
  message = r"lacks 1 of 4 shards.*: toy-train.tfrecord-00002-of-00004\."
  with pytest.raises(FileNotFoundError, match=message):
    records.find_shards(folder, "train")


def test_missing_split_and_folder_are_named(write_split, tmp_path):
  folder = write_split(2, split="validation")
  with pytest.raises(
    FileNotFoundError, match=r"'test'; it has \['validation'\]"
  ):
    records.find_shards(folder, "test")
  with pytest.raises(FileNotFoundError, match=r"no data set folder .*nowhere"):
    records.find_shards(tmp_path / "nowhere", "train")


def test_two_forms_of_a_split_are_refused(write_split):
  folder = write_split(4, num_shards=2)
  write_split(4, num_shards=4)
  with pytest.raises(ValueError, match=r"'toy of 2 shards', 'toy of 4 shards'"):
    records.find_shards(folder, "train")
