"""Frames between host and worker: a length and plain JSON, never pickle.

The host reads what a hostile program may have written: lengths are checked
before anything is read, and depth is left to the JSON parser's own guard.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_LENGTH = struct.Struct(">I")


class FrameError(ValueError):
  """Bytes that are no frame."""


def encode(value: Any) -> bytes:
  """A frame of a plain value.

  Raises:
    FrameError: if it is not plain, has NaN, or is over MAX_FRAME_BYTES.
  """
  try:
    text = json.dumps(
      value, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
  except (TypeError, ValueError, RecursionError) as e:
    raise FrameError(f"not plain data: {e}") from e
  body = text.encode("utf-8", "surrogatepass")
  if len(body) > MAX_FRAME_BYTES:
    raise FrameError(
      f"a frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are sent"
    )
  return _LENGTH.pack(len(body)) + body


def _nothing(size: int) -> bytes:
  del size
  return b""


class Reader:
  """Reads frames from `read(n)`, which returns 1 to n bytes, none at the end.

  Without `read`, bytes are given to `feed` as they come; `has_frame` says
  whether `next` finds a whole frame.
  """

  def __init__(self, read: Callable[[int], bytes] = _nothing):
    self._read = read
    self._ahead = bytearray()

  def feed(self, data: bytes) -> None:
    """Adds bytes that came."""
    self._ahead += data

  def has_frame(self) -> bool:
    """Whether a whole frame is there.

    Raises:
      FrameError: if a longer one is announced than is sent.
    """
    if len(self._ahead) < _LENGTH.size:
      return False
    return len(self._ahead) >= _LENGTH.size + self._length()

  def next(self) -> Any:
    """The next frame's value.

    Raises:
      EOFError: if the other side closed, also in the middle of a frame.
      FrameError: if what came is no frame.
    """
    self._fill(_LENGTH.size)
    size = _LENGTH.size + self._length()
    self._fill(size)
    body = bytes(self._ahead[_LENGTH.size : size])
    del self._ahead[:size]
    try:
      return json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as e:
      raise FrameError(f"not JSON: {e}") from e

  def _length(self):
    (length,) = _LENGTH.unpack_from(self._ahead)
    if length > MAX_FRAME_BYTES:
      raise FrameError(f"a frame of {length} bytes announced")
    return length

  def _fill(self, size):
    while len(self._ahead) < size:
      chunk = self._read(_CHUNK_BYTES)
      if not chunk:
        raise EOFError
      self._ahead += chunk


def write(fd: int, data: bytes) -> None:
  """Writes all of `data`, waiting as long as that takes."""
  view = memoryview(data)
  while view:
    view = view[os.write(fd, view) :]
