"""Each kernel layer holds by itself, for code that is past the gate."""

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[3]
_START = """
import os, socket, signal, sys
sys.path.insert(0, {root!r})
from data_gen.sandbox import kernel as kernel_lib
kernel = kernel_lib.Kernel()
"""


def attempt(layer, code):
  """Runs code behind one layer; what it printed last."""
  script = f"{_START.format(root=str(_ROOT))}\n{layer}\n"
  script += "try:\n"
  script += "".join(f"  {line}\n" for line in code.strip().split("\n"))
  script += "except OSError as e:\n  os.write(1, type(e).__name__.encode())\n"
  script += "os._exit(0)\n"
  done = subprocess.run(
    [sys.executable, "-I", "-c", script],
    capture_output=True,
    text=True,
    timeout=60,
    env={"SECRET": "x"},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


SECCOMP = "kernel.drop_capabilities()\nkernel.filter_syscalls()"
NAMESPACES = """
try:
  kernel.enter_namespaces()
  if os.fork():
    os._exit(os.waitpid(-1, 0)[1] >> 8)
  kernel.empty_root()
except OSError as e:
  os.write(1, f"SKIP {e}".encode())
  os._exit(0)
"""
LANDLOCK = """
try:
  kernel.forbid_files()
except OSError as e:
  os.write(1, f"SKIP {e}".encode())
  os._exit(0)
"""
SAY = "\nos.write(1, b'done')"


def skip_if_not_offered(said):
  if said.startswith("SKIP"):
    pytest.skip(f"this host does not offer the layer: {said}")


@pytest.mark.parametrize(
  "code",
  [
    "os.open('/etc/passwd', os.O_RDONLY)",
    "os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)",
    "os.unlink('/tmp/x')",
    "os.listdir('/')",
    "socket.socket()",
    "socket.socketpair()",
    "os.fork()",
    "os.execv('/bin/true', ['true'])",
    "os.kill(1, 0)",
    "os.pipe()",
    "signal.signal(signal.SIGXCPU, signal.SIG_IGN)",
    "os.setpriority(os.PRIO_PROCESS, 0, 5)",
  ],
)
def test_seccomp_forbids(code):
  assert attempt(SECCOMP, code + SAY) == "PermissionError"


def test_seccomp_leaves_memory_and_open_descriptors():
  code = "x = bytearray(50_000_000)\ndel x"
  assert attempt(SECCOMP, code + SAY) == "done"


def test_capabilities_are_gone():
  code = """
with open('/proc/self/status') as f:
  status = dict(line.split(':', 1) for line in f)
print({status[k].strip() for k in ('CapEff', 'CapPrm', 'CapInh')}, flush=True)"""
  said = attempt("kernel.drop_capabilities()", code)
  assert said.strip() == "{'0000000000000000'}"


def test_namespaces_have_no_files():
  said = attempt(NAMESPACES, "print(os.listdir('/'), flush=True)")
  skip_if_not_offered(said)
  assert said.strip() == "[]"


def test_namespaces_cannot_write_files():
  said = attempt(NAMESPACES, "os.open('/x', os.O_CREAT | os.O_WRONLY)" + SAY)
  skip_if_not_offered(said)
  assert said == "OSError"  # A read-only file system.


def test_namespaces_have_no_network_interface_up():
  code = "socket.socket().connect(('127.0.0.1', 9))"
  said = attempt(NAMESPACES, code + SAY)
  skip_if_not_offered(said)
  assert said == "OSError"  # Unreachable, where it would be refused.


def test_namespaces_show_no_other_process():
  said = attempt(NAMESPACES, "print(os.getpid(), flush=True)")
  skip_if_not_offered(said)
  assert said.strip() == "1"


@pytest.mark.parametrize(
  "code",
  [
    "os.open('/etc/passwd', os.O_RDONLY)",
    "os.listdir('/')",
    "os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)",
    "os.mkdir('/tmp/vpd_jax_landlock')",
  ],
)
def test_landlock_forbids_paths(code):
  said = attempt(LANDLOCK, code + SAY)
  skip_if_not_offered(said)
  assert said == "PermissionError"


@pytest.mark.parametrize(
  ("kind", "message"),
  [
    ("RLIMIT_AS", "268435456"),
    ("RLIMIT_NPROC", "0"),
    ("RLIMIT_FSIZE", "0"),
    ("RLIMIT_CORE", "0"),
    ("RLIMIT_NOFILE", "0"),
    ("RLIMIT_CPU", "2"),
  ],
)
def test_rlimits_are_hard(kind, message):
  layer = """
from data_gen.sandbox import limits
import resource
limits.apply_rlimits(limits.Limits(5, 1, 256, 1, 1, 1))
"""
  said = attempt(
    layer, f"print(resource.getrlimit(resource.{kind})[1], flush=1)"
  )
  assert said.strip() == message
