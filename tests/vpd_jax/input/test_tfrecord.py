"""Framing and the Example message: known bytes, round trips, damage."""

import io
import struct

import pytest

from vpd_jax.input import tfrecord


def test_frame_has_the_bytes_of_the_format():
  # CRC-32C of "123456789" is 0xe3069283 (RFC 3720, appendix B.4); masked:
  # rotated right by 15 bits, plus 0xa282ead8.
  rotated = ((0xE3069283 >> 15) | (0xE3069283 << 17)) & 0xFFFFFFFF
  masked = (rotated + 0xA282EAD8) & 0xFFFFFFFF
  framed = tfrecord.frame(b"123456789")
  assert framed[:8] == struct.pack("<Q", 9)
  assert framed[12:21] == b"123456789"
  assert framed[21:] == struct.pack("<I", masked)
  assert len(framed) == 12 + 9 + 4


def test_frames_round_trip():
  payloads = [b"", b"one", bytes(range(256)) * 10]
  file = io.BytesIO(b"".join(tfrecord.frame(p) for p in payloads))
  assert list(tfrecord.read_frames(file, "f")) == payloads


@pytest.mark.parametrize(
  "byte, message",
  [
    (0, "wrong length checksum"),
    (9, "wrong length checksum"),
    (13, "wrong payload checksum"),
    (-1, "wrong payload checksum"),
  ],
)
def test_one_changed_byte_is_found(byte, message):
  good = tfrecord.frame(b"good")
  bad = bytearray(tfrecord.frame(b"payload"))
  bad[byte] ^= 1
  frames = tfrecord.read_frames(io.BytesIO(good + bytes(bad)), "x.tfrecord")
  assert next(frames) == b"good"
  where = rf"x.tfrecord is damaged at record 1 \(byte {len(good)}\): {message}"
  with pytest.raises(ValueError, match=where):
    next(frames)


@pytest.mark.parametrize("kept, what", [(5, "a header"), (15, "a record")])
def test_file_cut_short_is_found(kept, what):
  cut = tfrecord.frame(b"payload")[:kept]
  with pytest.raises(ValueError, match=f"the file ends in {what}"):
    list(tfrecord.read_frames(io.BytesIO(cut), "x"))


def test_example_has_the_bytes_of_the_message():
  # example.proto by hand: features = 1, map entry {key = 1, value = 2},
  # bytes_list = 1, int64_list = 3 (packed varints).
  def field(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload

  def entry(name, kind, values):
    return field(1, field(1, name) + field(2, field(kind, values)))

  expected = field(
    1, entry(b"a", 1, field(1, b"xy")) + entry(b"n", 3, field(1, b"\x03\x05"))
  )
  found = tfrecord.encode_example({"n": [3, 5], "a": [b"xy"]})
  assert found == expected


def test_example_round_trips():
  features = {"b": [b"\x00\xff", b""], "i": [-1, 1 << 40], "f": [0.5], "e": []}
  encoded = tfrecord.encode_example(features)
  assert tfrecord.decode_example(encoded) == features


def test_example_does_not_depend_on_the_order_of_names():
  a = tfrecord.encode_example({"x": [1], "y": [2]})
  b = tfrecord.encode_example({"y": [2], "x": [1]})
  assert a == b


def test_example_refuses_other_types():
  with pytest.raises(TypeError, match="feature 'x' holds str"):
    tfrecord.encode_example({"x": ["text"]})


def test_no_example_is_refused():
  with pytest.raises(ValueError, match=r"not a tf.train.Example"):
    tfrecord.decode_example(b"\xff\xff\xff")
