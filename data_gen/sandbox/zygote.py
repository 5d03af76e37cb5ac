"""The host's handle on the warm parent of contained programs.

    zygote = Zygote(limits.Limits(), profile="vpd")
    child = zygote.start()          # its socket is child.connection
    zygote.kill(child)
    for child, code, cpu_s in zygote.take_endings(): ...

Nothing here blocks but the start and the end; see `worker` for the other side
and `engine` for the loop between them.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import session as session_lib
from data_gen.sandbox import worker

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 0.5
_PACKET_BYTES = 1 << 16

# (error class, message) of a run.
Ending = tuple[str, str]


class SandboxError(RuntimeError):
  """The sandbox itself cannot work here, whatever the program."""


class ZygoteLost(Exception):
  """The warm parent is gone, and with it every program that it ran."""


@dataclasses.dataclass(frozen=True)
class Child:
  """A contained process that waits for its program.

  Attributes:
    number: the host's name for it.
    connection: socket to it, not blocking.
  """

  number: int
  connection: socket.socket


class Zygote:
  """A warm parent process, walled in.

  Args:
    limits: of each program.
    profile: name of the API that programs see; see `tools.profiles`.
    allow_unsafe_no_kernel_layer: start although the kernel does not keep
      programs from files or the network. For trusted programs only.

  Raises:
    SandboxError: if it does not start, or no kernel layer holds.
  """

  def __init__(
    self,
    limits: limits_lib.Limits,
    profile: str = "vpd",
    allow_unsafe_no_kernel_layer: bool = False,
  ):
    self.limits = limits
    self._profile = profile
    self._allow_unsafe = allow_unsafe_no_kernel_layer
    self._numbers = itertools.count()
    self._is_reserved = False
    self._start()

  @property
  def layers(self) -> dict[str, Any]:
    """The kernel's layers in force, and what they were seen to forbid."""
    return dict(self._layers)

  @property
  def pid(self) -> int:
    """Of the process that was started; the new one after `restart`."""
    return self._process.pid

  def fileno(self) -> int:
    """Readable when endings have come."""
    return self._control.fileno()

  @contextlib.contextmanager
  def reserved(self) -> Iterator[None]:
    """Keeps it for one loop, whose children's endings are its own.

    Raises:
      RuntimeError: if another loop has it.
    """
    if self._is_reserved:
      raise RuntimeError(
        "this sandbox runs programs already: read those outcomes to the end, "
        "or use another Executor"
      )
    self._is_reserved = True
    try:
      yield
    finally:
      self._is_reserved = False

  def start(self) -> Child:
    """Has a child forked; it waits for a frame with its program.

    Raises:
      ZygoteLost: if the parent is gone.
      SandboxError: if this process has no more descriptors.
    """
    try:
      ours, theirs = socket.socketpair()
    except OSError as e:
      raise SandboxError(
        f"no socket for a program: {e.strerror}. Raise the limit of open files"
        " (ulimit -n) or lower config.engine.in_flight."
      ) from e
    ours.setblocking(False)
    child = Child(next(self._numbers), ours)
    self._children[child.number] = child
    self._order(worker.RUN, child, theirs)
    return child

  def kill(self, child: Child) -> None:
    """Has a child ended now; its ending comes like any other.

    Raises:
      ZygoteLost: if the parent is gone.
    """
    if child.number in self._children:
      self._order(worker.KILL, child, None)

  def take_endings(self) -> list[tuple[Child, int, float]]:
    """Children that ended since the last call: (child, exit code, CPU s); the
    code is `worker.NO_FORK` for one that could not be made.

    Raises:
      ZygoteLost: if the parent is gone.
    """
    endings = []
    while True:
      try:
        packet = self._control.recv(_PACKET_BYTES)
      except BlockingIOError:
        break
      except OSError as e:
        raise ZygoteLost from e
      if not packet:
        raise ZygoteLost
      for number, code, cpu_s in json.loads(packet):
        endings.append((self._children.pop(number), code, cpu_s))
    self._send_orders()
    return endings

  def restart(self) -> None:
    """Starts anew; whatever ran is ended.

    Raises:
      SandboxError: if it does not start.
    """
    self._process.kill()
    self.close()
    self._start()

  def close(self) -> None:
    """Ends it, and all its children; a second call does nothing."""
    for child in self._children.values():
      child.connection.close()
    for _, _, theirs in self._orders:
      if theirs is not None:
        theirs.close()
    self._control.close()
    try:
      self._process.wait(timeout=_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    assert self._process.stderr is not None
    self._process.stderr.close()

  def _order(self, order, child, theirs):
    self._orders.append((order, child.number, theirs))
    self._send_orders()

  def _send_orders(self):
    """Sends what waits, as far as the parent takes it."""
    while self._orders:
      order, number, theirs = self._orders[0]
      packet = worker.ORDER.pack(order, number)
      try:
        fds = [] if theirs is None else [theirs.fileno()]
        socket.send_fds(self._control, [packet], fds)
      except BlockingIOError:
        return
      except OSError as e:
        raise ZygoteLost from e
      self._orders.popleft()
      if theirs is not None:
        theirs.close()

  def _start(self):
    self._children: dict[int, Child] = {}
    self._orders: collections.deque[Any] = collections.deque()
    self._control, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    fd = theirs.fileno()
    limits = json.dumps(dataclasses.asdict(self.limits))
    script = pathlib.Path(worker.__file__)
    # As -I, less -E: the hash seed is fixed, so sets keep their order.
    flags = ("-s", "-S", "-P", "-B")
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:  # Where libpython is, in some builds.
      environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, *flags, str(script), str(fd), limits, self._profile],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(fd,),
        env=environment,
        start_new_session=True,
      )
    self._control.settimeout(_START_TIMEOUT_S)
    try:
      packet = self._control.recv(_PACKET_BYTES)
    except OSError:
      packet = b""
    if not packet:
      self._process.kill()
      _, errors = self._process.communicate()
      self._control.close()
      lines = errors.decode(errors="replace").strip().splitlines()
      raise SandboxError(
        f"the sandbox's worker did not start: {(lines or ['no message'])[-1]}"
      )
    self._layers = json.loads(packet)
    self._control.setblocking(False)
    if not self._allow_unsafe and not is_contained(self._layers):
      layers = self.layers
      self.close()
      raise SandboxError(
        "this host's kernel does not keep programs from files, the network "
        f"and other processes: {layers}. Allow seccomp and user namespaces, or "
        "set sandbox.allow_unsafe_no_kernel_layer=True for trusted programs."
      )


def is_contained(layers: Mapping[str, Any]) -> bool:
  """Whether these layers keep a program from files, from the network, and
  from other processes."""
  no_network = "network" in layers["namespaces"]
  no_network = no_network or "sockets" in layers["forbidden"]
  return no_network and {"files", "processes", "signals"} <= set(
    layers["forbidden"]
  )


def layers_text(layers: Mapping[str, Any]) -> str:
  """The layers in force, and those that this host lacks, in one line."""
  spaces = ", ".join(layers["namespaces"])
  abi = layers["landlock_abi"]
  parts = {
    f"namespaces ({spaces})": bool(spaces),
    "empty file tree": layers["empty_root"],
    f"landlock (ABI {abi})": bool(abi),
    "seccomp": layers["seccomp"],
    "rlimits": True,
  }
  text = ", ".join(name for name, holds in parts.items() if holds)
  lacks = [name.split(" (")[0] for name, holds in parts.items() if not holds]
  return text + (f"; not on this host: {', '.join(lacks)}" if lacks else "")


def ending_of(code: int, cpu_s: float, limits: limits_lib.Limits) -> Ending:
  """(error class, message) of a child that left without a last word."""
  if code == limits_lib.EXIT_MEMORY:
    return "memory", session_lib.limit_text(
      f"{limits.memory_mb} MB", "memory_mb"
    )
  if code == limits_lib.EXIT_OUTPUT:
    return session_lib.output_ending(limits)
  is_killed = code == -signal.SIGKILL and cpu_s >= limits.cpu_s
  if code == -signal.SIGXCPU or is_killed:
    return "cpu_time", session_lib.limit_text(
      f"{limits.cpu_s} s of CPU", "cpu_s"
    )
  if code < 0:
    return "worker_died", f"ended by {signal.Signals(-code).name}"
  return "worker_died", f"ended with exit code {code}"
