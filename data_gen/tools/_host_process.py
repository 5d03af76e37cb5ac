"""The server's handle of one `host` process: start, send, receive, end.

Nothing here waits for a tool. A process that starts anew does so while the
caller goes on.
"""

import collections
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection as connection_lib
from typing import Any

from data_gen.tools import tool as tool_lib

# Kept decoded in a process, with what tools prepared: as many images as can be
# in flight, but of large ones fewer. Decoded, a JPEG file is ten times larger.
MAX_IMAGES = 512
MAX_IMAGE_BYTES = 128 << 20  # As files.
_SEND_TIMEOUT_S = 30  # A live process reads at once; a stopped one never.
_END_TIMEOUT_S = 2.0
_MAX_IDLE_LOSSES = 3
_MAX_STDERR_BYTES = 4096


class ToolServerError(RuntimeError):
  """A process of tools that does not start, or does not stay."""


class HostLost(Exception):
  """The process is gone, or does not read; its exit code or reason."""


class HostProcess:
  """One process and the images that it holds.

  Attributes:
    name: from the tools' key "process".
    specs: call -> what `host` tells of its tool; empty before the first start.
    is_ready: whether the tools are made.
    batch: what was sent and not yet answered; None if it is free.
    deadline_s: monotonic time at which the start or the batch is overdue; None
      if nothing is awaited.
    restarts: how often it was started again.

  Args:
    name: as above.
    tools_config: of its tools; plain values.
    start_timeout_s: longest time to make the tools.

  Raises:
    ValueError: if the config does not consist of plain values.
  """

  def __init__(
    self,
    name: str,
    tools_config: Mapping[str, Mapping[str, Any]],
    start_timeout_s: float,
  ):
    self.name = name
    self.specs: dict[str, dict[str, Any]] = {}
    self.restarts = 0
    self._idle_losses = 0  # In a row, without a batch answered.
    self._start_timeout_s = start_timeout_s
    try:
      self._config = json.dumps({"tools": tools_config}).encode()
    except (TypeError, ValueError) as e:
      raise ValueError(
        f"config.tools: the options of {sorted(tools_config)} must be plain"
        f" values (numbers, text, lists, dicts): {e}"
      ) from e
    self._start()

  def files(self) -> list[int]:
    """Descriptors that are readable when there is something to receive."""
    files = [self._connection.fileno()]
    return files if self._stderr is None else [*files, self._stderr]

  def send(
    self,
    call: str,
    batch: Sequence[Any],
    images: Sequence[tool_lib.Image | None],
  ) -> None:
    """Sends a batch of one call.

    Args:
      call: of all items.
      batch: has `box` and `arguments`, one an item; kept as `batch`.
      images: of the items; None where the tool needs none.

    Raises:
      HostLost: if the process is gone or does not read.
    """
    new: dict[str, bytes] = {}
    used = [image for image in images if image is not None]
    for image in used:
      if image.key not in self._images:
        new[image.key] = image.encoded
        self._image_bytes += len(image.encoded)
      self._images[image.key] = len(image.encoded)
      self._images.move_to_end(image.key)
    forget = []
    num_used = len({image.key for image in used})
    while len(self._images) > num_used and (
      len(self._images) > MAX_IMAGES or self._image_bytes > MAX_IMAGE_BYTES
    ):
      key, size = self._images.popitem(last=False)
      self._image_bytes -= size
      forget.append(key)
    message = {
      "call": call,
      "images": list(new),
      "forget": forget,
      "items": [
        {
          "image": image.key if image else None,
          "box": request.box,
          "arguments": request.arguments,
        }
        for request, image in zip(batch, images, strict=True)
      ],
    }
    try:
      self._connection.send_bytes(json.dumps(message).encode())
      for encoded in new.values():
        self._connection.send_bytes(encoded)
    except OSError as e:  # Also that it did not read in time.
      raise HostLost(self._exit_text()) from e
    self.batch = list(batch)
    self.call = call
    self.sent_s = time.monotonic()
    self.deadline_s = self.sent_s + self.specs[call]["timeout_s"]

  def receive(self) -> list[dict[str, Any]] | None:
    """The replies to the batch, if they are there, without waiting.

    Raises:
      HostLost: if the process is gone.
      ToolServerError: if it failed to start.
    """
    ready = {fd for fd, _ in self._poller.poll(0)}
    if self._stderr in ready:
      self._drain_stderr()
    if self._connection.fileno() not in ready:
      return None
    try:
      message = json.loads(self._connection.recv_bytes())
    except (EOFError, OSError) as e:
      reason = self._exit_text()
      if not self.is_ready and not self.restarts:
        raise ToolServerError(
          f"the process {self.name!r} of the tools {self._tool_names()} did not"
          f" start: {self._last_words() or reason}"
        ) from e
      raise HostLost(reason) from e
    self.deadline_s = None
    if not self.is_ready:
      if "failed" in message:
        raise ToolServerError(
          f"the tools {self._tool_names()} of the process {self.name!r} cannot"
          f" be made: {message['failed']}"
        )
      self.is_ready = True
      self.specs = message["ready"]
      return None
    self._idle_losses = 0
    return message

  def take_batch(self) -> tuple[str, list[Any]]:
    """The call and the items of the batch that was answered."""
    batch, self.batch = self.batch, None
    assert batch is not None
    return self.call, batch

  def forget(self, image_key: str) -> None:
    """Notes that the process does not hold the image."""
    self._image_bytes -= self._images.pop(image_key, 0)

  def restart(self) -> None:
    """Ends the process and starts a new one, which is ready later.

    Raises:
      ToolServerError: if it keeps ending while it has nothing to do.
    """
    self._idle_losses += self.batch is None
    if self._idle_losses > _MAX_IDLE_LOSSES:
      reason = self._exit_text()
      raise ToolServerError(
        f"the process {self.name!r} of the tools {self._tool_names()} keeps"
        f" ending with nothing to do: {self._last_words() or reason}"
      )
    old = self._process, self._connection
    self._start()  # First, so that a new descriptor is no old one's number.
    self.restarts += 1
    _end(*old, grace_s=0.0)

  def close(self) -> None:
    """Ends the process; one that is free may leave by itself."""
    is_free = self.is_ready and self.batch is None
    grace_s = _END_TIMEOUT_S if is_free else 0.0
    _end(self._process, self._connection, grace_s)

  def _start(self):
    ours, theirs = socket.socketpair()
    timeout = struct.pack("ll", _SEND_TIMEOUT_S, 0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    # As in this process, so that it finds the modules that this one does.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with theirs:
      self._process = subprocess.Popen(
        [
          sys.executable,
          "-P",
          "-m",
          "data_gen.tools.host",
          str(theirs.fileno()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
        env={**os.environ, "PYTHONPATH": paths},
      )
    assert self._process.stderr is not None
    self._stderr: int | None = self._process.stderr.fileno()
    os.set_blocking(self._stderr, False)
    self._stderr_tail = b""
    self._connection = connection_lib.Connection(ours.detach())
    self._images: collections.OrderedDict[str, int] = collections.OrderedDict()
    self._image_bytes = 0
    self._poller = select.poll()
    for fd in self.files():
      self._poller.register(fd, select.POLLIN)
    self.is_ready = False
    self.batch: list[Any] | None = None
    self.call = ""
    self.sent_s = 0.0
    self.deadline_s: float | None = time.monotonic() + self._start_timeout_s
    with contextlib.suppress(OSError):  # `receive` tells why it is gone.
      self._connection.send_bytes(self._config)

  def _drain_stderr(self):
    """Keeps the end of what the tools write, so that they never wait."""
    while self._stderr is not None:
      try:
        data = os.read(self._stderr, 1 << 16)
      except BlockingIOError:
        return
      if not data:
        self._poller.unregister(self._stderr)
        self._stderr = None
      self._stderr_tail = (self._stderr_tail + data)[-_MAX_STDERR_BYTES:]

  def _last_words(self):
    self._drain_stderr()
    lines = self._stderr_tail.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""

  def _exit_text(self):
    try:
      code = self._process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
      return "it does not read, or closed its socket"
    return f"it ended with exit code {code}"

  def _tool_names(self):
    return sorted(json.loads(self._config)["tools"])


def _end(process, connection, grace_s):
  connection.close()
  with contextlib.suppress(subprocess.TimeoutExpired):
    if grace_s:
      process.wait(grace_s)
  process.kill()
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(_END_TIMEOUT_S)  # A driver may keep a killed one for longer.
  process.stderr.close()
