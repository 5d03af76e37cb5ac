"""The contained side: a warm parent that forks one child per program.

Started by `zygote.Zygote` as a script with an empty environment and one open
socket. The parent loads what children need, walls itself in, reports which
layers hold, and then takes orders, one per packet: "r" with a socket starts
the program that comes over it, "k" ends one. It runs no program itself, and
reports each child's end.

The child talks to the host over its socket (see `frames`): calls, printed
text, and last an answer or an error. All it can reach is this socket.
"""

import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

if __name__ == "__main__":  # -P: nothing but the library is on the path.
  sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))

from data_gen.programs import parse
from data_gen.sandbox import kernel as kernel_lib
from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import program

# An order: what, and the host's number of the child.
ORDER = struct.Struct(">cQ")
RUN, KILL = b"r", b"k"
NO_FORK = 1 << 16  # In place of an exit code: the child was not made.

# First use of the parser loads and caches a good deal; children share it.
_WARM_UP = f"def {parse.NAME}(image):\n  return '{{}}'.format(len([image]))"


def main(
  control: socket.socket, limits: limits_lib.Limits, profile: str
) -> None:
  """Walls this process in, says how, and serves until the host is gone."""
  warnings.simplefilter("ignore")
  kernel = kernel_lib.Kernel()
  layers = {"namespaces": [], "empty_root": False, "landlock_abi": 0}
  _go_first_when_memory_is_short()
  if not _works(kernel.enter_namespaces):  # Half-way in would be no good.
    layers["namespaces_error"] = "not on this host"
  else:
    layers["namespaces"] = kernel.enter_namespaces()
    _become_first_process(kernel, control)
    try:
      kernel.empty_root()
      layers["empty_root"] = True
    except OSError as e:
      layers["empty_root_error"] = str(e)
  try:
    layers["landlock_abi"] = kernel.forbid_files()
  except OSError as e:
    layers["landlock_error"] = str(e)
  layers |= _probe(kernel)
  safe_builtins = program.safe_builtins()
  program.compile_program(parse.parse(_WARM_UP))
  gc.collect()
  gc.freeze()  # Children share these pages as long as nobody touches them.
  control.send(json.dumps(layers).encode())

  def run_child(fd: int) -> None:
    _contain(fd, kernel, limits, layers["seccomp"])
    program.Program(fd, limits, safe_builtins, profile).run()

  _Children(control, run_child).serve()


def _go_first_when_memory_is_short():
  """Programs are ended before anything else on the machine is."""
  try:
    with open("/proc/self/oom_score_adj", "w") as file:
      file.write("1000")
  except OSError:
    pass  # No /proc here; the kernel then chooses by size.


def _works(attempt):
  """Whether something can be done, tried in a child."""
  child = os.fork()
  if child == 0:
    try:
      attempt()
      os._exit(0)
    except BaseException:
      os._exit(1)
  return os.waitpid(child, 0)[1] == 0


def _become_first_process(kernel, control):
  """Forks into the new process namespace; all in it ends with that child."""
  child = os.fork()
  if child == 0:
    kernel.end_with_parent()
    return
  control.close()
  _, status = os.waitpid(child, 0)
  os._exit(os.waitstatus_to_exitcode(status) & 0x7F)


def _probe(kernel):
  """Tries the layers in a child, without rlimits; what they forbid in fact."""
  ours, theirs = socket.socketpair()
  child = os.fork()
  if child == 0:
    report = {"seccomp": False, "forbidden": []}
    try:
      kernel.drop_capabilities()
      kernel.filter_syscalls()
      report["seccomp"] = True
    except OSError as e:
      report["seccomp_error"] = str(e)
    report["forbidden"] = [
      name for name, attempt in _ATTEMPTS.items() if _is_forbidden(attempt)
    ]
    os.write(theirs.fileno(), json.dumps(report).encode())
    os._exit(0)
  theirs.close()
  report = ours.recv(65536)
  ours.close()
  os.waitpid(child, 0)
  return json.loads(report or b'{"seccomp": false, "forbidden": []}')


def _is_forbidden(attempt):
  try:
    attempt()
  except OSError:
    return True
  return False


_ATTEMPTS = {
  "files": lambda: os.stat("/usr"),
  "sockets": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
  "processes": lambda: os.fork() or os._exit(0),
  "signals": lambda: os.kill(os.getppid(), 0),
}


class _Children:
  """The programs that run now: starts and ends them as the host orders."""

  def __init__(self, control: socket.socket, run_child: Callable[[int], None]):
    self._control = control
    self._run_child = run_child
    self._pids: dict[int, int] = {}  # By the host's number of the child.
    self._numbers: dict[int, int] = {}  # Of children, by their pidfd.
    self._poll = select.epoll()
    self._poll.register(control, select.EPOLLIN)

  def serve(self) -> NoReturn:
    """Takes orders until the host is gone."""
    while True:
      endings = []
      for fd, _ in self._poll.poll():
        if fd == self._control.fileno():
          self._take_order()
        else:
          endings.append(self._reap(fd))
      if endings:
        self._control.send(json.dumps(endings).encode())

  def _take_order(self):
    packet, fds, _, _ = socket.recv_fds(self._control, ORDER.size, 1)
    if not packet:
      os._exit(0)  # Children end with this process.
    order, number = ORDER.unpack(packet)
    if order == RUN:
      self._start(number, fds[0])
    elif number in self._pids:  # Else it ended by itself meanwhile.
      os.kill(self._pids[number], signal.SIGKILL)

  def _start(self, number, fd):
    try:
      child = os.fork()
    except OSError:
      os.close(fd)
      self._control.send(json.dumps([(number, NO_FORK, 0.0)]).encode())
      return
    if child == 0:
      try:
        self._run_child(fd)
        os._exit(0)
      except MemoryError:
        os._exit(limits_lib.EXIT_MEMORY)
      except BaseException:
        os._exit(1)
    os.close(fd)
    pidfd = os.pidfd_open(child)
    self._poll.register(pidfd, select.EPOLLIN)
    self._pids[number] = child
    self._numbers[pidfd] = number

  def _reap(self, pidfd):
    """(number, exit code, seconds of CPU) of a child that ended."""
    number = self._numbers.pop(pidfd)
    self._poll.unregister(pidfd)  # A child may hold a copy for a moment yet.
    os.close(pidfd)
    _, status, usage = os.wait4(self._pids.pop(number), 0)
    code = os.waitstatus_to_exitcode(status)
    return number, code, usage.ru_utime + usage.ru_stime


def _contain(fd, kernel, limits, with_seccomp):
  """Closes every layer; leaves `fd` as the only way out."""
  kernel.end_with_parent()
  os.dup2(0, 2)
  os.closerange(3, fd)
  os.closerange(fd + 1, 1 << 20)
  limits_lib.apply_rlimits(limits)
  kernel.drop_capabilities()
  if with_seccomp:
    kernel.filter_syscalls()


if __name__ == "__main__":
  main(
    socket.socket(fileno=int(sys.argv[1])),
    limits_lib.Limits(**json.loads(sys.argv[2])),
    sys.argv[3],
  )
