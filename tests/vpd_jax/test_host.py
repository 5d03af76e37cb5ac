"""What a training process tells its own machine."""

import platform
import subprocess
import sys

import pytest

from vpd_jax import host

# Takes and frees 200 MiB twice; prints the second time's page faults, and how
# many MiB stay once it is done.
_SCRIPT = """
import resource, sys
import numpy as np
from vpd_jax import host

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident_mb():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * resource.getpagesize() >> 20

if sys.argv[1] == "keep":
  host.keep_freed_memory()
before_mb = resident_mb()
np.ones(200 << 20, np.uint8)
start = faults()
np.ones(200 << 20, np.uint8)
print(faults() - start, resident_mb() - before_mb)
host.give_back_freed_memory()
print(resident_mb() - before_mb)
"""


def _run(mode):
  done = subprocess.run(
    [sys.executable, "-c", _SCRIPT, mode],
    capture_output=True,
    text=True,
    check=True,
  )
  return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc"
  or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35),
  reason="needs glibc 2.35: older ones map large buffers whatever they are told",
)
def test_freed_memory_is_kept_until_it_is_given_back():
  faults, held_mb, rest_mb = _run("keep")
  assert faults < 50 and held_mb >= 200 and rest_mb < 100
  faults, held_mb, _ = _run("leave")
  assert faults > 50 and held_mb < 100  # 100 of huge pages.


@pytest.mark.parametrize(
  "limit,cores", [(None, 4), ("2", 2), ("9", 4), ("0", 4), ("many", 4)]
)
def test_cores_are_those_that_xla_uses(limit, cores, monkeypatch):
  monkeypatch.setattr(host.os, "sched_getaffinity", lambda pid: set(range(4)))
  monkeypatch.delenv("NPROC", raising=False)
  if limit is not None:
    monkeypatch.setenv("NPROC", limit)
  assert host.usable_cores() == cores
