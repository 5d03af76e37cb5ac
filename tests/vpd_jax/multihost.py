"""Several real processes on this machine, each with some CPU devices."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
# The smallest experiment.
CONFIG = ROOT / "configs" / "debug.py"


def free_port() -> int:
  """One that nobody listens on."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def member(
  port: int, count: int, number: int, timeout_s: float = 200.0
) -> list[str]:
  """Flags of one of several processes."""
  options = dict(
    coordinator=f"localhost:{port}",
    num_processes=count,
    process_id=number,
    timeout_s=timeout_s,
  )
  return [f"--config.distributed.{k}={v}" for k, v in options.items()]


def start(arguments: Sequence[Any], devices: int) -> subprocess.Popen[str]:
  """A Python process with so many devices; its output is kept."""
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": xla_flags.of_devices(devices)},
  )


def end(
  processes: Sequence[subprocess.Popen[str]], timeout_s: float = 300
) -> list[tuple[int, str, str]]:
  """Waits; (exit code, stdout, stderr) of each. None is left behind."""
  try:
    out = [process.communicate(timeout=timeout_s) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    (process.returncode, *texts)
    for process, texts in zip(processes, out, strict=True)
  ]
