"""Frames, whole, in pieces, and broken."""

import struct

import pytest

from data_gen.sandbox import frames


def reader_of(data, piece=1 << 20):
  pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
  return frames.Reader(lambda size: pieces.pop(0) if pieces else b"")


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_reading_gives_what_was_written(piece):
  values = [{"a": [1, 2.5, None]}, "é\ud800", [], "x" * 300]
  reader = reader_of(b"".join(map(frames.encode, values)), piece)
  assert [reader.next() for _ in values] == values
  with pytest.raises(EOFError):
    reader.next()


@pytest.mark.parametrize(
  "value", [float("nan"), object(), b"x", "x" * (1 << 20)]
)
def test_what_is_not_sent(value):
  with pytest.raises(frames.FrameError):
    frames.encode(value)


@pytest.mark.parametrize(
  "body", [b"{", b"\xff\xff", b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000]
)
def test_bodies_that_are_no_json(body):
  with pytest.raises(frames.FrameError, match="not JSON"):
    reader_of(struct.pack(">I", len(body)) + body).next()


def test_a_length_is_checked_before_anything_is_read():
  with pytest.raises(frames.FrameError, match="4294967295 bytes announced"):
    reader_of(b"\xff\xff\xff\xff").next()


def test_a_frame_cut_short_is_an_end():
  with pytest.raises(EOFError):
    reader_of(frames.encode("abc")[:-1]).next()
