r"""Is this machine, or are all of a pod or cluster, ready to train?

    python -m vpd_jax.doctor
    python -m vpd_jax.doctor --config=configs/world_vpd.py

Start it as training is started: on all hosts, with the same flags. It prints a
line per check, OK, WARN or FAIL, on process 0; a host that does not come is
named after `distributed.timeout_s`. With `--workdir`: do all see that folder?
With a config (`doctor_config`): are data and initial weights there, does the
mesh fit the devices, the batch the mesh, the state the memory? The exit code
is 1 if a line says FAIL.
"""

import os
import pathlib
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from absl import flags
from ml_collections import config_flags

from vpd_jax import entry
from vpd_jax.doctor_config import Line

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment to check; without it, the machine alone."
)
WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Where a run would be written: its disk is looked at (without it, this"
  " folder's), and whether all processes see it.",
)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
PYTHON = ((3, 11), (3, 14))
_GIB = 1 << 30
MIN_DISK_GIB = 10.0


def main(_) -> None:
  """Checks what the flags say; SystemExit with code 1 if something fails."""
  is_ok = True
  for line in check(CONFIG.value, WORKDIR.value):
    is_ok &= line.level != "FAIL"
    print(f"{line.level:5}{line.topic:12}{line.text}", flush=True)
  if not is_ok:
    sys.exit(1)


def check(config: Any, workdir: str | None) -> Iterator[Line]:
  """All checks, one line after the other; those after a failed one may lack.

  Args:
    config: an experiment's, or None.
    workdir: a folder, which need not exist yet; or None. Of several processes,
      process 0 makes it.

  Raises:
    ValueError, OSError: after its FAIL line, for what only this one of several
      processes found: those that wait for it end too.
  """
  from vpd_jax import distributed, rendezvous

  said = facts(workdir or ".")
  try:
    options = distributed.given(config.get("distributed") if config else None)
    timeout_s = options.pop("timeout_s", distributed.TIMEOUT_S)
    options.pop("heartbeat_s", None)
    cluster = distributed.find(**options)
  except ValueError as e:
    yield from host_lines({0: said})
    yield Line("FAIL", "processes", str(e))
    return
  if cluster is None or cluster.num_processes == 1:
    yield from host_lines({0: said})
    yield Line("OK", "processes", "this one alone")
    yield _port_line()
    yield from _device_lines(config)
    return
  try:
    others = distributed.join(cluster, timeout_s, said=said)
  except (rendezvous.MissingProcessError, ValueError, OSError) as e:
    arrived = getattr(e, "arrived", None) or {cluster.process_id: said}
    yield from host_lines(arrived)
    yield Line("FAIL", "processes", str(e))
    return
  with others:
    lines = _joined_lines(cluster, others.arrived, config, workdir)
    # All processes go through the same checks; one prints.
    yield from lines if cluster.process_id == 0 else _failures(lines)


def _joined_lines(cluster, arrived, config, workdir) -> Iterator[Line]:
  if cluster.process_id == 0:
    yield from host_lines(arrived)
  yield Line(
    "OK",
    "processes",
    f"all {cluster.num_processes} came ({cluster.source}); each reaches"
    f" {cluster.coordinator}",
  )
  yield from _device_lines(config, workdir, is_alone=False)


def _failures(lines: Iterator[Line]) -> Iterator[Line]:
  return (line for line in lines if line.level == "FAIL")


def facts(workdir: str) -> dict[str, Any]:
  """JSON-safe: what this process's machine and Python are."""
  folder = os.path.abspath(workdir)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  return {
    "host": socket.gethostname(),
    "system": f"{platform.system()} {platform.release()}",
    "python": platform.python_version(),
    "packages": {name: _version(name) for name in PACKAGES},
    "cores": os.cpu_count() or 1,
    "memory_gib": _memory_gib(),
    "disk_gib": shutil.disk_usage(folder).free / _GIB,
    "folder": folder,
  }


def host_lines(arrived: Mapping[int, Mapping[str, Any]]) -> Iterator[Line]:
  """A line per host; then what differs between them, or is too little."""
  for number, said in sorted(arrived.items()):
    disk = said["disk_gib"]
    is_small = disk < MIN_DISK_GIB
    yield Line(
      "WARN" if is_small else "OK",
      f"host {number}",
      f"{said['host']}: {said['system']}, {said['cores']} cores,"
      f" {said['memory_gib']:.1f} GiB of memory, {disk:.1f} GiB free at"
      f" {said['folder']}"
      + (f"; checkpoints may need more than {disk:.1f}" if is_small else ""),
    )
  first = arrived[min(arrived)]
  version = tuple(int(n) for n in first["python"].split(".")[:2])
  packages = ", ".join(f"{n} {v}" for n, v in first["packages"].items())
  is_known = PYTHON[0] <= version < PYTHON[1] and all(
    first["packages"].values()
  )
  yield Line(
    "OK" if is_known else "FAIL",
    "versions",
    f"Python {first['python']}, {packages}"
    + (
      ""
      if is_known
      else "; expected Python 3.11 to 3.13 and all of these:"
      " pip install -U vpd_jax"
    ),
  )
  for number, said in sorted(arrived.items()):
    for name in ("python", "packages"):
      if said[name] != first[name]:
        yield Line(
          "FAIL",
          "versions",
          f"process {number} ({said['host']}) has {name} {said[name]}, process"
          f" {min(arrived)} {first[name]}; install the same on all hosts",
        )


def _port_line() -> Line:
  from vpd_jax import clusters

  try:
    socket.create_server(("", clusters.PORT)).close()
  except OSError as e:
    return Line(
      "WARN",
      "port",
      f"{clusters.PORT} is taken ({e}): for several processes, choose another"
      " with distributed.coordinator=host:port",
    )
  return Line("OK", "port", f"{clusters.PORT} is free for a coordinator")


def _device_lines(
  config: Any, workdir: str | None = None, *, is_alone: bool = True
) -> Iterator[Line]:
  import jax

  from vpd_jax import distributed, doctor_config
  from vpd_jax.logs import mfu

  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as e:
    # An assertion: CUDA is asked for, and its plugin is not installed.
    why = str(e) or (
      f"is the plugin of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')!r}"
      " installed?"
    )
    problem = f"JAX finds none it can use: {why}"
    yield Line("FAIL", "devices", problem)
    if is_alone:
      return
    raise ValueError(problem) from e  # The others would wait for its devices.
  kind = devices[0].device_kind
  counts: dict[int, int] = {}
  for device in devices:
    counts[device.process_index] = counts.get(device.process_index, 0) + 1
  memory = _device_memory(devices)
  peak = mfu.peak(kind)
  is_cpu = devices[0].platform == "cpu"
  yield Line(
    "WARN" if is_cpu else "OK",
    "devices",
    f"{len(devices)} x {kind}"
    + (f", {memory / _GIB:.1f} GiB each" if memory else "")
    + (f", {peak / 1e12:g} TFLOP/s in bfloat16" if peak else "")
    + ("; no accelerator: enough for small models" if is_cpu else ""),
  )
  if len(set(counts.values())) > 1 or len(counts) < jax.process_count():
    yield Line(
      "FAIL",
      "devices",
      f"by process: {counts}; a mesh needs as many of each. Look for one that"
      " does not see all of its own.",
    )
    return
  if jax.process_count() > 1:
    distributed.sync("doctor")
    yield Line("OK", "network", "a collective over all devices came through")
    if workdir is not None:
      yield from _workdir_lines(pathlib.Path(workdir))
  if config is not None:
    yield from doctor_config.lines(config, memory)


def _workdir_lines(workdir: pathlib.Path) -> Iterator[Line]:
  from vpd_jax import distributed

  try:
    distributed.check_shared(workdir)
  except ValueError as e:
    yield Line("FAIL", "workdir", str(e))
  except OSError as e:
    yield Line("FAIL", "workdir", str(e))
    raise  # The others would wait.
  else:
    yield Line("OK", "workdir", f"all processes see {workdir.absolute()}")


def _device_memory(devices) -> int | None:
  """Bytes of a device that this process has; None where it is not known."""
  for device in devices:
    if device.process_index == device.client.process_index():
      stats = device.memory_stats() or {}
      return stats.get("bytes_limit")
  return None


def _memory_gib() -> float:
  try:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (ValueError, OSError):
    return float("nan")
  return pages / _GIB


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


if __name__ == "__main__":
  entry.run(main)
