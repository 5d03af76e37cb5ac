"""Processes meet before JAX starts; those that do not come are named.

JAX's own start waits in silence for a process that never comes. Here process 0
listens on the coordinator's port, the others connect and say who they are, and
all learn at the same time that all are there, or which are not. Nothing
listens on the port afterwards: JAX can. The connections stay, for `peers`. A
process that ends while others are awaited may be started again.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from vpd_jax import clusters

_MAGIC = "vpd_jax"
_MAX_BYTES = 1 << 20
_MAX_NAMED = 16
# A stray connection that says nothing holds process 0 up for so long.
READ_TIMEOUT_S = 2.0
_RETRY_S = 0.25
# What an answer may take beyond the time limit that process 0 keeps.
_ANSWER_S = 10.0


class Meeting(NamedTuple):
  """All processes are there.

  Attributes:
    arrived: process id -> what each said of itself; but for "host", on
      process 0 alone.
    connections: to all others on process 0, elsewhere to process 0; by id.
  """

  arrived: dict[int, dict[str, Any]]
  connections: dict[int, socket.socket]

  @property
  def hosts(self) -> dict[int, str]:
    """Process id -> host name."""
    return {i: said["host"] for i, said in self.arrived.items()}

  def close(self) -> None:
    """Ends the connections."""
    for connection in self.connections.values():
      connection.close()


class MissingProcessError(TimeoutError):
  """Processes did not come in time.

  Attributes:
    arrived: process id -> what it said, of those that came; on process 0.
  """

  def __init__(self, message: str, arrived: Mapping[int, Any] | None = None):
    super().__init__(message)
    self.arrived = dict(arrived or {})


def meet(
  cluster: clusters.Cluster,
  timeout_s: float,
  payload: Mapping[str, Any] | None = None,
) -> Meeting:
  """Waits until all processes of a cluster are there.

  Args:
    cluster: all, and which this one is.
    timeout_s: how long process 0 waits for the others, and they for it.
    payload: JSON-safe, what this process says of itself; its host's name is
      added as "host".

  Raises:
    MissingProcessError: names the processes, and their hosts if known, that
      did not come; on all that did.
    ValueError: if two processes have one id, or not all have the same count.
    OSError: if the port is in use.
  """
  said = {"host": socket.gethostname()} | dict(payload or {})
  if cluster.process_id == 0:
    return _receive(cluster, timeout_s, said)
  return _send(cluster, timeout_s, said)


def _receive(cluster, timeout_s, said) -> Meeting:
  """Process 0: waits for the others, then answers all of them."""
  deadline = time.monotonic() + timeout_s
  meeting = Meeting({0: said}, {})
  with _listen(cluster) as listener:
    try:
      while len(meeting.arrived) < cluster.num_processes:
        listener.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
          connection, _ = listener.accept()
        except TimeoutError:
          message = _missing(cluster, meeting.hosts, timeout_s)
          raise MissingProcessError(message, meeting.arrived) from None
        hello = read(connection)
        if hello is None:
          connection.close()  # Not one of ours.
          continue
        _forget_ended(meeting)
        problem = _problem(cluster, meeting.hosts, hello)
        if problem:
          write(connection, {"error": problem, "kind": "value"})
          connection.close()
          raise ValueError(problem)
        number = hello["process_id"]
        meeting.arrived[number] = hello["payload"]
        meeting.connections[number] = connection
    except (MissingProcessError, ValueError) as e:
      kind = "value" if isinstance(e, ValueError) else "missing"
      for connection in meeting.connections.values():
        write(connection, {"error": str(e), "kind": kind})
      meeting.close()
      raise
  hosts = [meeting.arrived[i]["host"] for i in range(cluster.num_processes)]
  for connection in meeting.connections.values():
    write(connection, {"hosts": hosts})
  return meeting


def _send(cluster, timeout_s, said) -> Meeting:
  """Another process: finds process 0, and waits for its answer."""
  host, _, port = cluster.coordinator.rpartition(":")
  started = time.monotonic()
  hello = {
    "process_id": cluster.process_id,
    "num_processes": cluster.num_processes,
    "payload": said,
  }
  problem: OSError | None = None
  while (left := started + timeout_s - time.monotonic()) > 0:
    try:
      connection = socket.create_connection((host, int(port)), min(left, 10.0))
    except OSError as e:
      problem = e
      time.sleep(_RETRY_S)
      continue
    write(connection, hello)
    # Process 0 may have started later, and then waits for longer.
    answer = read(connection, timeout_s + _ANSWER_S)
    if answer is None:
      connection.close()
      problem = OSError("what is there answered nothing that we understand")
      time.sleep(_RETRY_S)
      continue
    if "error" in answer:
      connection.close()
      is_value = answer["kind"] == "value"
      raise (ValueError if is_value else MissingProcessError)(answer["error"])
    arrived = {i: {"host": name} for i, name in enumerate(answer["hosts"])}
    return Meeting(arrived, {0: connection})
  raise MissingProcessError(
    f"process {cluster.process_id} of {cluster.num_processes} found no process"
    f" 0 at {cluster.coordinator} within {timeout_s:g} s ({problem}). Start the"
    " same command there, with process_id 0, or look at its log; check that"
    f" port {port} of {host} is open to this host ({said['host']})."
  )


def read(
  connection: socket.socket, timeout_s: float | None = READ_TIMEOUT_S
) -> dict[str, Any] | None:
  """One message; None if it ended, or what came is none of ours.

  Args:
    connection: to another process.
    timeout_s: of the whole message; None: for ever.
  """
  deadline = None if timeout_s is None else time.monotonic() + timeout_s
  data = b""
  try:
    while not data.endswith(b"\n") and len(data) < _MAX_BYTES:
      left = None if deadline is None else deadline - time.monotonic()
      connection.settimeout(left if left is None else max(left, 0.001))
      # By the byte, as the next message may be there: they are few and short.
      part = connection.recv(1)
      if not part:
        break
      data += part
    found = json.loads(data)
  except (OSError, ValueError):
    return None
  is_ours = isinstance(found, dict) and found.get("magic") == _MAGIC
  return found if is_ours else None


def write(connection: socket.socket, message: Mapping[str, Any]) -> None:
  """Sends a message; nothing happens if nobody is there any more."""
  line = json.dumps({"magic": _MAGIC, **message}).encode() + b"\n"
  try:
    connection.settimeout(READ_TIMEOUT_S)
    connection.sendall(line)
  except OSError:
    pass  # It left; whoever reads from it learns that.


def _listen(cluster) -> socket.socket:
  port = int(cluster.coordinator.rpartition(":")[2])
  has_both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if has_both else socket.AF_INET
  try:
    return socket.create_server(
      ("", port),
      family=family,
      backlog=cluster.num_processes + 16,
      dualstack_ipv6=has_both,
    )
  except OSError as e:
    raise OSError(
      f"process 0 cannot listen on port {port} of this host"
      f" ({socket.gethostname()}): {e}. Is an earlier run still there? End it,"
      " or give distributed.coordinator another port, on all hosts."
    ) from e


def _forget_ended(meeting: Meeting) -> None:
  """Processes that came and ended since are awaited again."""
  for number, connection in list(meeting.connections.items()):
    try:
      connection.setblocking(False)
      # Nobody sends anything while all wait: b"" is its end.
      is_there = bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
      is_there = True
    except OSError:
      is_there = False
    if not is_there:
      connection.close()
      del meeting.connections[number], meeting.arrived[number]


def _problem(cluster, hosts, hello) -> str | None:
  """What is wrong with a process that came, if anything."""
  number, host = hello["process_id"], hello["payload"]["host"]
  if hello["num_processes"] != cluster.num_processes:
    return (
      f"process {number} (host {host}) was started with"
      f" distributed.num_processes={hello['num_processes']}, process 0 with"
      f" {cluster.num_processes}. Give all the same."
    )
  if number in hosts:
    return (
      f"two processes came as process {number}: on hosts {hosts[number]} and"
      f" {host}. Give each its own distributed.process_id."
    )
  return None


def _missing(cluster, hosts, timeout_s) -> str:
  absent = [i for i in range(cluster.num_processes) if i not in hosts]
  names = [
    f"{i} (host {cluster.hosts[i]})" if i in cluster.hosts else str(i)
    for i in absent[:_MAX_NAMED]
  ]
  if len(absent) > _MAX_NAMED:
    names.append(f"and {len(absent) - _MAX_NAMED} more")
  here = [f"{i} ({hosts[i]})" for i in sorted(hosts)[:_MAX_NAMED]]
  return (
    f"{len(absent)} of {cluster.num_processes} processes did not come within"
    f" {timeout_s:g} s: process {', '.join(names)}. Here are:"
    f" {', '.join(here)}. Start the same command there, or look at its log;"
    f" check that it reaches {cluster.coordinator}."
  )
