"""Which process of how many this is, as the launcher says it.

    SLURM          srun's variables
    Cloud TPU      the metadata server of a TPU VM; multislice too
    GKE with TPUs  TPU_WORKER_ID, TPU_WORKER_HOSTNAMES, MEGASCALE_*

Anything else is told by flags, `config.distributed`. Nothing here touches a
device.
"""

import glob
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple

# Of the coordinator. Since jax 0.8.1 its own default on Cloud TPU is 8482,
# which the firewall rules that come with newer TPUs do not open.
PORT = 8476
_METADATA_TIMEOUT_S = 5.0
_SLURM = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS")


class Cluster(NamedTuple):
  """The processes that run one command together.

  Attributes:
    source: what says so: "flags", "slurm" or "tpu".
    coordinator: "host:port" of process 0.
    num_processes: how many there are.
    process_id: which this one is, from 0.
    hosts: process id -> host name, of those that are known.
    has_whole_host: whether this process alone uses its host's devices.
  """

  source: str
  coordinator: str
  num_processes: int
  process_id: int
  hosts: Mapping[int, str]
  has_whole_host: bool = True


def detect(
  environ: Mapping[str, str] = os.environ,
  metadata: Callable[[str], str] | None = None,
) -> Cluster | None:
  """The cluster that launched this process, or None: it runs alone.

  Args:
    environ: environment variables.
    metadata: attribute -> its text, of a Cloud TPU VM; None: asks the VM's
      metadata server if this machine has TPUs.

  Raises:
    ValueError: if what the launcher says does not hold together.
  """
  for read in (_slurm, _gke_tpu):
    cluster = read(environ)
    if cluster is not None:
      return cluster if cluster.num_processes > 1 else None
  if metadata is None and _has_tpu(environ):
    metadata = _ask_metadata
  if metadata is None:
    return None
  cluster = _cloud_tpu(metadata)
  return cluster if cluster.num_processes > 1 else None


def from_flags(
  *, coordinator: str, num_processes: int, process_id: int
) -> Cluster:
  """The cluster that `config.distributed` describes.

  Raises:
    ValueError: for a value that cannot be; says what was expected.
  """
  host, colon, port = coordinator.rpartition(":")
  if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ValueError(
      f"distributed.coordinator={coordinator!r} is not host:port, such as"
      f" {coordinator.split(':')[0] or 'host0'}:{PORT}."
    )
  if num_processes < 1:
    raise ValueError(f"distributed.num_processes={num_processes}; at least 1.")
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"distributed.process_id={process_id} is not among"
      f" 0..{num_processes - 1}, of distributed.num_processes={num_processes}."
    )
  return Cluster("flags", coordinator, num_processes, process_id, {0: host})


def expand_hosts(text: str) -> list[str]:
  """Host names of a SLURM list: "n[01-02,7],x" -> n01, n02, n7, x."""
  out = []
  for prefix, inner, suffix in re.findall(
    r"([^,\[]+)(?:\[([^\]]*)\])?([^,\[]*)", text
  ):
    for part in inner.split(",") if inner else [""]:
      first, dash, last = part.partition("-")
      numbers = [first]
      if dash:
        width = len(first)
        numbers = [
          str(n).zfill(width) for n in range(int(first), int(last) + 1)
        ]
      out += [f"{prefix}{number}{suffix}" for number in numbers]
  return out


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
  # Of srun's tasks. A batch script itself has the job's list alone: no other
  # process comes to meet it.
  nodes = environ.get("SLURM_STEP_NODELIST")
  if not nodes or any(name not in environ for name in _SLURM):
    return None
  hosts = expand_hosts(nodes)
  tasks = int(environ["SLURM_NTASKS"])
  # Several jobs may share a node: each has a port of its own, below the range
  # that the kernel gives to outgoing connections.
  port = 20000 + int(environ["SLURM_JOB_ID"]) % 10000
  one_each = tasks == len(hosts)
  return Cluster(
    source="slurm",
    coordinator=f"{hosts[0]}:{port}",
    num_processes=tasks,
    process_id=int(environ["SLURM_PROCID"]),
    hosts=dict(enumerate(hosts)) if one_each else {0: hosts[0]},
    has_whole_host=one_each,
  )


def _gke_tpu(environ: Mapping[str, str]) -> Cluster | None:
  if "TPU_WORKER_HOSTNAMES" not in environ or "TPU_WORKER_ID" not in environ:
    return None
  return _tpu(
    hosts=environ["TPU_WORKER_HOSTNAMES"].split(","),
    worker=environ["TPU_WORKER_ID"],
    slices=environ,
  )


def _cloud_tpu(metadata: Callable[[str], str]) -> Cluster:
  endpoints = metadata("worker-network-endpoints").split(",")
  # Each is an address, or name:id:address.
  hosts = [endpoint.split(":")[-1] for endpoint in endpoints]
  pairs = (
    line.split(":", 1)
    for line in metadata("tpu-env").splitlines()
    if ":" in line
  )
  return _tpu(
    hosts=hosts,
    worker=metadata("agent-worker-number"),
    slices={name.strip(): value.strip().strip("'") for name, value in pairs},
  )


def _tpu(hosts: list[str], worker: str, slices: Mapping[str, str]) -> Cluster:
  """Of a slice's hosts and MEGASCALE_*, which say what slices there are."""
  hosts = [host.strip() for host in hosts]
  if not worker.strip().isdigit() or int(worker) >= len(hosts):
    raise ValueError(
      f"this TPU worker's number is {worker!r}, but its slice has"
      f" {len(hosts)} hosts: {hosts}."
    )
  number = int(slices.get("MEGASCALE_SLICE_ID") or 0)
  first = number * len(hosts)
  main = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
  return Cluster(
    source="tpu",
    coordinator=f"{main.split(':')[0]}:{PORT}",
    num_processes=len(hosts) * int(slices.get("MEGASCALE_NUM_SLICES") or 1),
    process_id=first + int(worker),
    hosts={first + i: host for i, host in enumerate(hosts)},
  )


def _has_tpu(environ: Mapping[str, str]) -> bool:
  """Whether this is a TPU VM, whose metadata server may be asked."""
  if environ.get("TPU_SKIP_MDS_QUERY"):
    return False
  devices = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
  return bool(devices) and importlib.util.find_spec("libtpu") is not None


def _ask_metadata(attribute: str) -> str:
  url = (
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
    + attribute
  )
  request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=_METADATA_TIMEOUT_S) as reply:
      return reply.read().decode()
  except (urllib.error.URLError, TimeoutError) as e:
    raise ValueError(
      f"this machine has TPUs, but its metadata server does not say {attribute}"
      f" ({e}). Set TPU_SKIP_MDS_QUERY=1 and give config.distributed:"
      " coordinator, num_processes, process_id."
    ) from e
