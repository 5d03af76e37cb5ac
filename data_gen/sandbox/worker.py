"""The contained side: a warm parent that forks one child per program.

Started by `executor.Executor` as a script with an empty environment and one
open socket. The parent loads what children need, walls itself in, reports
which layers hold, and then waits for orders: "r" with a socket runs the
program that comes over it, "k" ends that program. It runs no program itself.

The child talks to the host over that socket (see `frames`): calls, printed
text, and last an answer or an error. All it can reach is this socket.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import warnings

if __name__ == "__main__":  # -P: nothing but the library is on the path.
  sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))

from data_gen.programs import parse
from data_gen.sandbox import frames, program
from data_gen.sandbox import kernel as kernel_lib
from data_gen.sandbox import limits as limits_lib

# First use of the parser loads and caches a good deal; children share it.
_WARM_UP = f"def {parse.NAME}(image):\n  return '{{}}'.format(len([image]))"


def main(control: socket.socket, limits: limits_lib.Limits) -> None:
  """Walls this process in, says how, and serves until the host is gone."""
  warnings.simplefilter("ignore")
  kernel = kernel_lib.Kernel()
  layers = {"namespaces": [], "empty_root": False, "landlock_abi": 0}
  try:
    layers["namespaces"] = kernel.enter_namespaces()
  except OSError as e:
    layers["namespaces_error"] = str(e)
  else:
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
  control.sendall(frames.encode(layers))
  while True:
    _serve(control, kernel, limits, safe_builtins, layers["seccomp"])


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


def _serve(control, kernel, limits, safe_builtins, with_seccomp):
  """Waits for one order and carries it out."""
  order, fds, _, _ = socket.recv_fds(control, 1, 1)
  if not order:
    os._exit(0)
  if order != b"r":  # "k" for a program that ended by itself.
    return
  (fd,) = fds
  child = os.fork()
  if child == 0:
    try:
      _contain(fd, kernel, limits, with_seccomp)
      program.Program(fd, limits, safe_builtins).run()
      os._exit(0)
    except MemoryError:
      os._exit(limits_lib.EXIT_MEMORY)
    except BaseException:
      os._exit(1)
  os.close(fd)
  control.sendall(frames.encode(_supervise(control, child)))


def _supervise(control, child):
  """Waits for the child's end, or brings it about when told to."""
  pidfd = os.pidfd_open(child)
  poll = select.poll()
  poll.register(pidfd, select.POLLIN)
  poll.register(control, select.POLLIN)
  is_host_gone = False
  while pidfd not in dict(poll.poll()):
    is_host_gone = not control.recv(1)
    os.kill(child, signal.SIGKILL)
    poll.unregister(control)
  _, status, usage = os.wait4(child, 0)
  os.close(pidfd)
  if is_host_gone:
    os._exit(0)
  code = os.waitstatus_to_exitcode(status)
  return {"code": code, "cpu_s": usage.ru_utime + usage.ru_stime}


def _contain(fd, kernel, limits, with_seccomp):
  """Closes every layer; leaves `fd` as the only way out."""
  kernel.end_with_parent()
  os.dup2(0, 2)
  os.closerange(3, fd)
  os.closerange(fd + 1, fd + 64)
  limits_lib.apply_rlimits(limits)
  kernel.drop_capabilities()
  if with_seccomp:
    kernel.filter_syscalls()


if __name__ == "__main__":
  main(
    socket.socket(fileno=int(sys.argv[1])),
    limits_lib.Limits(**json.loads(sys.argv[2])),
  )
