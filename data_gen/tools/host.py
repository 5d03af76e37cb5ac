"""The process that holds tools: decodes images once, runs batches, replies.

`server` starts it as `python -m data_gen.tools.host FD`, with one end of a
socket. Messages are JSON; the bytes of images follow the message that names
them. It ends with its server.

    <- {"tools": config section}
    -> {"ready": {call: spec}} or {"failed": message}
    <- {"call", "images": [key], "forget": [key],
        "items": [{"image": key or null, "box", "arguments"}]}, then each image
    -> [{"value": plain} or {"error_class", "message"}], one an item
"""

import dataclasses
import io
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import connection as connection_lib
from typing import Any

import numpy as np
import PIL.Image

from data_gen.sandbox import kernel
from data_gen.tools import tool as tool_lib
from data_gen.tools import toolbox as toolbox_lib

_MAX_MESSAGE_CHARS = 200


@dataclasses.dataclass
class _Seen:
  """An image with what tools have prepared for it, by call."""

  pixels: np.ndarray
  prepared: dict[str, Any] = dataclasses.field(default_factory=dict)


class Host:
  """A toolbox and the images of its latest calls.

  Which images are kept is up to the server, which says what to forget; one
  that cannot be decoded is not kept.
  """

  def __init__(self, toolbox: toolbox_lib.Toolbox):
    self._toolbox = toolbox
    self._images: dict[str, _Seen] = {}

  def answer(
    self, message: Mapping[str, Any], encoded: Mapping[str, bytes]
  ) -> list[dict[str, Any]]:
    """Answers a batch.

    Args:
      message: as above.
      encoded: the images that came with it, by key.

    Returns:
      One reply an item.
    """
    for key in message["forget"]:
      self._images.pop(key, None)
    call = message["call"]
    faults: dict[str | None, dict[str, str]] = {}
    for key, data in encoded.items():
      try:
        self._images[key] = _Seen(decode(data))
      except Exception as e:  # A decoder raises anything on foreign bytes.
        text = " ".join(f"{type(e).__name__}: {e}".split())
        faults[key] = _fault(
          "bad_image",
          f"{call} needs a JPEG or PNG image; this one cannot be decoded:"
          f" {text[:_MAX_MESSAGE_CHARS]}",
        )
    replies: list[Any] = [None] * len(message["items"])
    requests: dict[int, tool_lib.Call] = {}
    for i, item in enumerate(message["items"]):
      key = item["image"]
      if key not in faults:
        try:
          requests[i] = self._request(call, item)
          continue
        except toolbox_lib.ToolFault as e:  # From `prepare`.
          faults[key] = _fault("tool_error", str(e))
      replies[i] = faults[key]
    if requests:
      values = self._toolbox.run_batch(call, list(requests.values()))
      for i, value in zip(requests, values, strict=True):
        if isinstance(value, toolbox_lib.ToolFault):
          replies[i] = _fault("tool_error", str(value))
        else:
          replies[i] = {"value": value}
    return replies

  def _request(self, call, item):
    box, key = tuple(item["box"]), item["image"]
    if key is None:
      return tool_lib.Call(None, "", box, item["arguments"])
    seen = self._images[key]
    if call not in seen.prepared:
      seen.prepared[call] = self._toolbox.prepare(call, seen.pixels)
    return tool_lib.Call(
      seen.pixels, key, box, item["arguments"], seen.prepared[call]
    )


def decode(encoded: bytes) -> np.ndarray:
  """uint8[height, width, 3] of a JPEG or PNG file, read-only."""
  with PIL.Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
    pixels = np.array(image.convert("RGB"))
  pixels.flags.writeable = False
  return pixels


def serve(connection: connection_lib.Connection) -> None:
  """Makes the tools that the first message names; then answers batches until
  the other side closes."""
  config = json.loads(connection.recv_bytes())
  try:
    toolbox = toolbox_lib.Toolbox(config["tools"])
  except Exception as e:
    _send(connection, {"failed": f"{type(e).__name__}: {e}"})
    return
  specs = {call: _plain_spec(spec) for call, spec in toolbox.specs.items()}
  _send(connection, {"ready": specs})
  host = Host(toolbox)
  while True:
    message = json.loads(connection.recv_bytes())
    encoded = {key: connection.recv_bytes() for key in message["images"]}
    _send(connection, host.answer(message, encoded))


def main(arguments: Sequence[str]) -> None:
  """Serves over the socket whose descriptor is given."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The server ends it.
  if sys.platform == "linux":
    kernel.Kernel().end_with_parent()
  try:
    serve(connection_lib.Connection(int(arguments[0])))
  except (EOFError, BrokenPipeError, ConnectionResetError):
    pass


def _fault(error_class, message):
  return {"error_class": error_class, "message": message}


def _plain_spec(spec):
  """What the server needs to know of a spec."""
  names = ("version", "uses_pixels", "batch_limit", "timeout_s", "weights")
  return {name: getattr(spec, name) for name in names}


def _send(connection, value):
  connection.send_bytes(json.dumps(value).encode())


if __name__ == "__main__":
  main(sys.argv[1:])
