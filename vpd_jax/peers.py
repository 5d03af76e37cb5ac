"""A process that ends early ends the others at once, with its name.

Processes of one command wait for each other in every step. If one dies, the
others would hang, or be aborted after a minute by a message that does not say
why. So the connections of the `rendezvous` stay open: the kernel closes a dead
process's, and whoever notices tells the rest.

    process 1 killed -> process 0 reads the end of its connection
                     -> writes to 2 and 3: "process 1 (host b) ended ..."
                     -> all print that, and exit with code 1

One that fails says why first; one that is done says so. Nothing here imports
JAX.
"""

import atexit
import os
import selectors
import socket
import sys
import threading
from typing import NoReturn

from vpd_jax import rendezvous, stopping

# An error that another's end brings about comes before the news of that end.
_NEWS_S = 2.0
# Python's end waits for threads, which may wait for other processes.
_LAST_S = 10.0
_LOST = (
  "ended without a word: killed, out of memory, or its machine is gone. Run the"
  " same command on all again; it goes on from the last checkpoint."
)


class Peers:
  """The other processes, watched from a thread.

      with peers.Peers(...):
        ...  # An error in here ends the others too, and they print it.

  Without `with`, the end of this process counts as that of its work.

  Attributes:
    arrived: process id -> what each said of itself, see `rendezvous.Meeting`.
  """

  def __init__(
    self, meeting: rendezvous.Meeting, process_id: int, silence_s: float
  ):
    """Starts to watch.

    Args:
      meeting: with open connections.
      process_id: of this process.
      silence_s: after this long without any sign of its machine, a process
        is lost.
    """
    self.arrived = meeting.arrived
    self._hosts, self._id = meeting.hosts, process_id
    self._connections = dict(meeting.connections)
    self._error: tuple[str, int] | None = None
    self._lock = threading.Lock()
    for connection in self._connections.values():
      _keep_alive(connection, silence_s)
    threading.Thread(target=self._run, daemon=True, name="peers").start()
    # After JAX's, so that it runs before: that one waits for the others.
    atexit.register(self._leave)

  def __enter__(self) -> "Peers":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    """An end that all have agreed on is none of an error."""
    if error is None or isinstance(error, stopping.Stopped):
      self._leave()
      return
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    self._error = (f"{kind.__name__}: {error}"[:2000], code)
    # The error goes on its way, to be printed; what follows runs at the
    # process's end, or here if that does not come.
    timer = threading.Timer(_LAST_S, self._leave)
    timer.daemon = True
    timer.start()

  def _leave(self) -> None:
    """Tells the others; after an error ends this process."""
    if self._error is None:
      with self._lock:
        self._tell({"done": self._id})
      atexit.unregister(self._leave)
      return
    threading.Event().wait(_NEWS_S)  # If there is news, `_end` comes first.
    reason, code = self._error
    with self._lock:
      self._tell({"ended": f"{self._name(self._id)} failed: {reason}"})
      _exit(code)

  def _run(self) -> None:
    done = set()
    with selectors.DefaultSelector() as selector:
      for number, connection in self._connections.items():
        selector.register(connection, selectors.EVENT_READ, number)
      while selector.get_map():
        for key, _ in selector.select():
          connection, number = key.fileobj, key.data
          assert isinstance(connection, socket.socket)
          message = rendezvous.read(connection) or {}
          if "done" in message:
            done.add(number)
          elif "ended" in message:
            self._end(message["ended"])
          else:
            selector.unregister(connection)
            if number not in done:
              self._end(f"{self._name(number)} {_LOST}")

  def _end(self, why: str) -> NoReturn:
    """Another process ended: tells the rest, and ends this one."""
    with self._lock:
      self._tell({"ended": why})
      print(f"error: {why}", file=sys.stderr, flush=True)
      _exit(1)

  def _tell(self, message: dict[str, object]) -> None:
    for connection in self._connections.values():
      rendezvous.write(connection, message)

  def _name(self, number: int) -> str:
    return f"process {number} (host {self._hosts[number]})"


def _keep_alive(connection: socket.socket, silence_s: float) -> None:
  """Has the kernel ask, unseen, whether the other machine is still there."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  probes = 4
  each = max(int(silence_s / (probes + 1)), 1)
  for name, value in (
    ("TCP_KEEPIDLE", each),
    ("TCP_KEEPINTVL", each),
    ("TCP_KEEPCNT", probes),
  ):
    if hasattr(socket, name):  # Not on every system.
      option = getattr(socket, name)
      connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _exit(code: int) -> NoReturn:
  """At once: JAX's own end would wait for the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
