"""Several processes as one: start, and what they must agree on.

    with distributed.start(config.get("distributed")):  # before any device is
      ...                                               # touched
      if distributed.is_main(): ...                     # process 0 writes files
      said = distributed.gather(is_interrupted)         # by process

An error inside `with` ends the other processes too, and they say what it was.
With one process, all of this does nothing.
"""

import contextlib
import json
import pathlib
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vpd_jax import clusters, config_check, peers, rendezvous

TIMEOUT_S = 300.0
HEARTBEAT_S = 60.0
# NFS remembers for up to a minute that a folder was not there.
_SEEN_S = 60.0
_LOOK_S = 0.25
_MAX_NAMED = 16


def start(
  options: Mapping[str, Any] | None = None,
) -> contextlib.AbstractContextManager[Any]:
  """Connects this process with the others of its command, if there are any.

  Args:
    options: `config.distributed`, keyword arguments of `connect`; those that
      are None are as if they were not there. Without any: what the launcher
      says (SLURM, Cloud TPU, GKE with TPUs), else one process.

  Returns:
    To be used in `with`, around all that the processes do together. All leave
    it at the same point, or one fails and takes the others with it.

  Raises:
    ValueError: for options that cannot be, if devices were touched before, or
      if the processes do not agree on who they are.
    rendezvous.MissingProcessError: names the processes that did not come.
    OSError: if the coordinator's port is taken.
  """
  return connect(**given(options))


def given(options: Mapping[str, Any] | None) -> dict[str, Any]:
  """Those of `config.distributed` that are set; ValueError for unknown ones."""
  options = dict(options or {})
  config_check.check_keywords(connect, options, "distributed")
  return {name: x for name, x in options.items() if x is not None}


def connect(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout_s: float = TIMEOUT_S,
  heartbeat_s: float = HEARTBEAT_S,
) -> contextlib.AbstractContextManager[Any]:
  """As `start`.

  Args:
    coordinator: "host:port" of process 0, a port that is open on it; this and
      the next two are given all or none.
    num_processes: how many run the command.
    process_id: which this one is, from 0.
    timeout_s: how long to wait for the others.
    heartbeat_s: a process whose machine was silent for so long is taken for
      dead. One that ends alone is noticed at once.
  """
  cluster = find(coordinator, num_processes, process_id)
  if cluster is None or cluster.num_processes == 1:
    return contextlib.nullcontext()
  others = join(cluster, timeout_s, heartbeat_s)
  if cluster.process_id == 0:
    hosts = {said["host"] for said in others.arrived.values()}
    print(
      f"distributed: {cluster.num_processes} processes ({cluster.source}) on"
      f" {len(hosts)} hosts met at {cluster.coordinator}.",
      flush=True,
    )
  return others


def join(
  cluster: clusters.Cluster,
  timeout_s: float = TIMEOUT_S,
  heartbeat_s: float = HEARTBEAT_S,
  said: Mapping[str, Any] | None = None,
) -> peers.Peers:
  """Meets the other processes of a cluster, and starts JAX's own service.

  Args:
    cluster: from `find`, of more than one process.
    timeout_s, heartbeat_s: see `connect`.
    said: JSON-safe, told to process 0: `Peers.arrived` has it.

  Raises:
    ValueError, rendezvous.MissingProcessError, OSError: as `start`.
  """
  _check_untouched()
  meeting = rendezvous.meet(cluster, timeout_s, said)
  others = peers.Peers(meeting, cluster.process_id, heartbeat_s)
  # Its handler of SIGTERM takes the signal away from a process that does not
  # ask it, as during start-up; `stopping` does its work.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    cluster.coordinator,
    cluster.num_processes,
    cluster.process_id,
    # Else a SLURM task would take one device, though it has the host alone.
    cluster_detection_method="deactivate" if cluster.has_whole_host else None,
    initialization_timeout=int(timeout_s),
    heartbeat_timeout_seconds=int(heartbeat_s),
  )
  return others


def find(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> clusters.Cluster | None:
  """The cluster of these flags, all or none; None: of what the launcher says.

  Raises:
    ValueError: if some are given and some not, or one cannot be.
  """
  flags = dict(
    coordinator=coordinator, num_processes=num_processes, process_id=process_id
  )
  missing = [name for name, value in flags.items() if value is None]
  if len(missing) == len(flags):
    return clusters.detect()
  if missing:
    raise ValueError(
      f"config.distributed lacks {missing}: give all of {sorted(flags)}, or"
      " none, for what the launcher says."
    )
  return clusters.from_flags(**flags)  # pyright: ignore[reportArgumentType]


def is_main() -> bool:
  """Whether this is process 0, which writes files and prints."""
  return jax.process_index() == 0


def sync(name: str) -> None:
  """Waits until all processes are here; `name` must be the same on all."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def gather(said: Any) -> list[Any]:
  """What each process says, by process; all call it, and get the same.

  Args:
    said: JSON-safe; any size.
  """
  if jax.process_count() == 1:
    return [said]
  own = np.frombuffer(json.dumps(said).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(own.size))
  padded = np.pad(own, (0, int(sizes.max()) - own.size))
  texts = multihost_utils.process_allgather(padded)
  return [
    json.loads(text[:size].tobytes())
    for text, size in zip(texts, sizes, strict=True)
  ]


def check_shared(folder: pathlib.Path) -> None:
  """Checks that all processes have one and the same folder; all call it.

  Process 0 writes a file there, all look for it, and it is removed. With one
  process nothing happens.

  Args:
    folder: of this process; made on process 0 if it is not there.

  Raises:
    ValueError: on all, naming the processes that do not see process 0's.
    OSError: on process 0, if it cannot write there.
  """
  if jax.process_count() == 1:
    return
  folder = folder.absolute()
  name = f".is_shared-{secrets.token_hex(8)}"
  mark = folder / name
  if is_main():
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"of {socket.gethostname()}; may be removed\n")
  try:
    said = gather(
      {"host": socket.gethostname(), "folder": str(folder), "mark": name}
    )
    is_seen = gather(_appears(folder / said[0]["mark"]))
  finally:
    if is_main():
      mark.unlink(missing_ok=True)
  blind = [
    f"{number} (host {said[number]['host']})"
    for number, sees in enumerate(is_seen)
    if not sees
  ]
  if blind:
    more = len(blind) - _MAX_NAMED
    names = ", ".join(blind[:_MAX_NAMED])
    raise ValueError(
      f"process {names}{f' and {more} more' if more > 0 else ''}"
      f" {'does' if len(blind) == 1 else 'do'} not see the workdir of process"
      f" 0, {said[0]['folder']} on host {said[0]['host']}; give all processes"
      " one shared folder."
    )


def _appears(path: pathlib.Path) -> bool:
  """Whether a file is there, or comes soon."""
  deadline = time.monotonic() + _SEEN_S
  while not path.exists():
    if time.monotonic() > deadline:
      return False
    time.sleep(_LOOK_S)
  return True


def _check_untouched() -> None:
  if jax.distributed.is_initialized():
    raise ValueError("distributed.start was called twice.")
  option = "jax_num_cpu_devices"
  value = getattr(jax.config, option)
  try:
    # JAX refuses another value once its devices were touched; no public name
    # of it tells so without touching them.
    jax.config.update(option, value + 1)
    jax.config.update(option, value)
  except RuntimeError as e:
    raise ValueError(
      "distributed.start must come before the first use of a device (also of"
      " jax.devices, jax.process_index or a jitted function): processes can"
      " only be connected before."
    ) from e
