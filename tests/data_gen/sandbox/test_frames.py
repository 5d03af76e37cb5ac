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


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_frames_that_are_fed_in_pieces(piece):
  values = [{"a": 1}, "x" * 300, []]
  data = b"".join(map(frames.encode, values))
  reader, found = frames.Reader(), []
  for i in range(0, len(data), piece):
    reader.feed(data[i : i + piece])
    while reader.has_frame():
      found.append(reader.next())
  assert found == values
  with pytest.raises(EOFError):
    reader.next()


def test_a_frame_that_is_not_whole_is_not_there():
  reader = frames.Reader()
  data = frames.encode("abc")
  for i in range(len(data)):
    assert not reader.has_frame()
    reader.feed(data[i : i + 1])
  assert reader.has_frame()


def test_a_length_that_is_too_long_is_no_frame_to_wait_for():
  reader = frames.Reader()
  reader.feed(struct.pack(">I", frames.MAX_FRAME_BYTES + 1))
  with pytest.raises(frames.FrameError, match="announced"):
    reader.has_frame()


def test_the_longest_frame_passes():
  value = "x" * (frames.MAX_FRAME_BYTES - 2)  # Less its quotes.
  reader = frames.Reader()
  reader.feed(frames.encode(value))
  assert reader.has_frame()
  assert reader.next() == value
