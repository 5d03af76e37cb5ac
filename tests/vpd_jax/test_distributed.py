"""Who runs with whom: what launchers say, who did not come, who ended."""

import contextlib
import json
import pathlib
import socket
import struct
import threading
import time

import jax
import numpy as np
import pytest

from tests.vpd_jax import multihost
from vpd_jax import clusters, distributed, rendezvous


def _cluster(port, count, number, hosts=None):
  made = clusters.from_flags(
    coordinator=f"localhost:{port}", num_processes=count, process_id=number
  )
  return made._replace(hosts=hosts or made.hosts)


# What launchers say.


def test_slurm_task_of_a_node():
  found = clusters.detect(
    {
      "SLURM_JOB_ID": "123456",
      "SLURM_PROCID": "2",
      "SLURM_NTASKS": "4",
      "SLURM_STEP_NODELIST": "gpu[07-09],login",
    }
  )
  assert found == clusters.Cluster(
    source="slurm",
    coordinator="gpu07:23456",
    num_processes=4,
    process_id=2,
    hosts={0: "gpu07", 1: "gpu08", 2: "gpu09", 3: "login"},
    has_whole_host=True,
  )


def test_slurm_tasks_share_a_node():
  environ = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "9",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NODELIST": "a[1,3]",
  }
  found = clusters.detect(environ)
  assert found is not None
  assert not found.has_whole_host and found.hosts == {0: "a1"}
  assert clusters.detect(environ | {"SLURM_NTASKS": "1"}) is None
  # In the batch script, outside srun, there is one process.
  environ["SLURM_JOB_NODELIST"] = environ.pop("SLURM_STEP_NODELIST")
  assert clusters.detect(environ | {"SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
  "text,expected",
  [
    ("n1", ["n1"]),
    ("n1,m2", ["n1", "m2"]),
    ("n[08-11]", ["n08", "n09", "n10", "n11"]),
    ("n[1-2,5],m[03]-x", ["n1", "n2", "n5", "m03-x"]),
  ],
)
def test_slurm_lists_of_hosts(text, expected):
  assert clusters.expand_hosts(text) == expected


def test_tpus_of_gke_over_slices():
  found = clusters.detect(
    {
      "TPU_WORKER_ID": "1",
      "TPU_WORKER_HOSTNAMES": "job-1-0.svc,job-1-1.svc",
      "MEGASCALE_NUM_SLICES": "3",
      "MEGASCALE_SLICE_ID": "1",
      "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.svc:8080",
    }
  )
  assert found is not None
  assert found.coordinator == "job-0-0.svc:8476"
  assert (found.num_processes, found.process_id) == (6, 3)
  assert found.hosts == {2: "job-1-0.svc", 3: "job-1-1.svc"}


def test_cloud_tpu_by_its_metadata():
  said = {
    "worker-network-endpoints": "a:0:10.0.0.2,b:1:10.0.0.3",
    "agent-worker-number": "1",
    "tpu-env": "ACCELERATOR_TYPE: 'v5p-16'\nZONE: 'x'\n",
  }
  found = clusters.detect({}, said.__getitem__)
  assert found == clusters.Cluster(
    "tpu", "10.0.0.2:8476", 2, 1, {0: "10.0.0.2", 1: "10.0.0.3"}
  )
  said["agent-worker-number"] = "2"
  with pytest.raises(ValueError, match=r"number is '2', .* 2 hosts"):
    clusters.detect({}, said.__getitem__)


def test_a_machine_of_its_own_is_alone():
  alone = {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}
  assert clusters.detect(alone) is None
  assert clusters.detect({}) is None


@pytest.mark.parametrize(
  "options,message",
  [
    ({"coordinator": "a"}, r"lacks \['num_processes', 'process_id'\]"),
    (
      {"coordinator": "a", "num_processes": 2, "process_id": 0},
      r"coordinator='a' is not host:port, such as a:8476",
    ),
    (
      {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
      r"process_id=2 is not among 0\.\.1",
    ),
    ({"coordinater": "a:1"}, "Did you mean 'config.distributed.coordinator'"),
    # The tests' devices were touched.
    (
      {"coordinator": "a:1", "num_processes": 2, "process_id": 0},
      "must come before the first use of a device",
    ),
  ],
)
def test_options_that_cannot_be_are_named(options, message):
  jax.devices()
  with pytest.raises(ValueError, match=message):
    distributed.start(options)


def test_one_process_needs_no_others():
  with distributed.start({}), distributed.start(None):
    assert distributed.is_main()
    distributed.sync("nobody else")
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    distributed.check_shared(pathlib.Path("nobody/looks"))
  assert not pathlib.Path("nobody").exists()


# Which folder.


def _check_shared(monkeypatch, folders):
  """`check_shared` of each folder in a thread, as of a process: its errors."""
  me, count = threading.local(), len(folders)
  barrier, said, out = threading.Barrier(count, timeout=20), {}, {}

  def gather(array):
    said[me.number] = np.asarray(array)
    barrier.wait()
    found = np.stack([said[number] for number in range(count)])
    barrier.wait()
    return found

  def run(number):
    me.number = number
    try:
      distributed.check_shared(folders[number])
    except ValueError as e:
      out[number] = str(e)

  monkeypatch.setattr(jax, "process_count", lambda: count)
  monkeypatch.setattr(jax, "process_index", lambda: me.number)
  monkeypatch.setattr(socket, "gethostname", lambda: f"h{me.number}")
  monkeypatch.setattr(distributed.multihost_utils, "process_allgather", gather)
  threads = [threading.Thread(target=run, args=[i]) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return out


def test_a_shared_folder_is_made_and_left_as_it_was(monkeypatch, tmp_path):
  folder = tmp_path / "not" / "yet"
  assert _check_shared(monkeypatch, [folder] * 3) == {}
  assert list(folder.iterdir()) == []


def test_who_has_a_folder_of_its_own_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr(distributed, "_SEEN_S", 0.1)
  a, b = tmp_path / "a", tmp_path / "b"
  out = _check_shared(monkeypatch, [a, a, a, b])
  assert set(out.values()) == {
    "process 3 (host h3) does not see the workdir of process 0,"
    f" {a} on host h0; give all processes one shared folder."
  }
  assert len(out) == 4
  out = _check_shared(monkeypatch, [a, b, a, b])
  assert "process 1 (host h1), 3 (host h3) do not see" in out[0]
  assert list(a.iterdir()) == [] and not b.exists()


def test_a_file_that_a_file_system_shows_late_is_seen(tmp_path):
  late = threading.Timer(0.4, (tmp_path / "x").touch)
  late.start()
  assert distributed._appears(tmp_path / "x")


# Who comes.


def _meet_all(made, timeout_s):
  """`meet` of each cluster in a thread -> what each gave or raised."""
  out = {}

  def run(number, cluster):
    try:
      out[number] = rendezvous.meet(cluster, timeout_s, {"n": number})
    except (OSError, ValueError) as e:
      out[number] = e

  threads = [
    threading.Thread(target=run, args=item) for item in enumerate(made)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  for found in out.values():
    if isinstance(found, rendezvous.Meeting):
      found.close()
  return out


def test_all_come():
  port = multihost.free_port()
  # A stranger at the port is none of ours, and holds nobody up.
  stop = threading.Event()

  def disturb():
    while not stop.is_set():
      with contextlib.suppress(OSError):
        with socket.create_connection(("localhost", port), 1) as stranger:
          stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
      time.sleep(0.1)

  stranger = threading.Thread(target=disturb)
  stranger.start()
  out = _meet_all([_cluster(port, 3, i) for i in range(3)], 20)
  stop.set()
  stranger.join()
  assert [out[0].arrived[i]["n"] for i in range(3)] == [0, 1, 2]
  assert out[2].hosts == dict.fromkeys(range(3), socket.gethostname())


def test_who_does_not_come_is_named_to_all_who_do():
  hosts = {0: "h0", 1: "h1", 2: "h2", 3: "h3"}
  port = multihost.free_port()
  start = time.monotonic()
  out = _meet_all([_cluster(port, 4, i, hosts) for i in (0, 2)], 1.5)
  assert time.monotonic() - start < 10
  for error in out.values():
    assert isinstance(error, rendezvous.MissingProcessError)
    text = str(error)
    assert "2 of 4 processes did not come within 1.5 s" in text
    assert "process 1 (host h1), 3 (host h3)" in text
    assert f"2 ({socket.gethostname()})" in text and f":{port}" in text
  assert sorted(out[0].arrived) == [0, 2]


def test_process_0_that_is_not_there_is_named():
  [error] = _meet_all([_cluster(multihost.free_port(), 2, 1)], 1.0).values()
  assert isinstance(error, rendezvous.MissingProcessError)
  assert "found no process 0 at localhost:" in str(error)
  assert "refused" in str(error)


def test_two_with_one_id_are_told():
  port = multihost.free_port()
  out = _meet_all([_cluster(port, 3, i) for i in (0, 1, 1)], 20)
  assert "two processes came as process 1" in str(out[0])
  assert all(isinstance(error, ValueError) for error in out.values())


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_process_that_ended_while_it_waited_comes_again(is_reset):
  port = multihost.free_port()
  out = {}
  first = threading.Thread(
    target=lambda: out.update(_meet_all([_cluster(port, 3, 0)], 20))
  )
  first.start()
  ended = _connect(port)
  payload = {"host": "before", "n": -1}
  rendezvous.write(
    ended, {"process_id": 1, "num_processes": 3, "payload": payload}
  )
  if is_reset:  # As by a process that was killed with something unread.
    linger = struct.pack("ii", 1, 0)
    ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    time.sleep(0.5)  # Else it would never have come.
  ended.close()
  _meet_all([_cluster(port, 3, 1), _cluster(port, 3, 2)], 20)
  first.join()
  assert isinstance(out[0], rendezvous.Meeting), out[0]
  assert out[0].arrived[1]["n"] == 0  # Of the second.


def _connect(port):
  deadline = time.monotonic() + 10
  while True:
    try:
      return socket.create_connection(("localhost", port))
    except OSError:
      assert time.monotonic() < deadline
      time.sleep(0.05)


def test_other_counts_are_told():
  port = multihost.free_port()
  out = _meet_all([_cluster(port, 2, 0), _cluster(port, 3, 1)], 20)
  for error in out.values():
    assert isinstance(error, ValueError)
    assert "num_processes=3, process 0 with 2" in str(error)


def test_port_in_use_is_named():
  with socket.create_server(("", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen on port {port}"):
      rendezvous.meet(_cluster(port, 2, 0), 5)


# Who ends. Processes without JAX, so they start soon.

_PEER = """
import os, sys, time
from vpd_jax import clusters, peers, rendezvous, stopping
port, count, number, way = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4]
cluster = clusters.from_flags(
  coordinator=f"localhost:{port}", num_processes=count, process_id=number)
with peers.Peers(rendezvous.meet(cluster, 60), number, 60):
  if way == "die":
    os.kill(os.getpid(), 9)
  if way == "fail":
    raise ValueError("no such thing")
  if way == "stop":
    raise stopping.Stopped(15, "saved")
  if way == "wait":
    time.sleep(120)
print("done", flush=True)
"""


def _peers(*ways):
  port = multihost.free_port()
  started = [
    multihost.start(["-c", _PEER, port, len(ways), number, way], devices=1)
    for number, way in enumerate(ways)
  ]
  return multihost.end(started, timeout_s=90)


@pytest.mark.parametrize("dead", [0, 2])
def test_a_killed_process_ends_the_others_by_name(dead):
  ways = ["wait"] * 3
  ways[dead] = "die"
  ends = _peers(*ways)
  assert ends.pop(dead)[0] == -9
  for code, _, stderr in ends:
    assert code == 1
    name = f"error: process {dead} (host {socket.gethostname()})"
    assert f"{name} ended without a word" in stderr


def test_an_error_of_one_is_told_by_all():
  failed, waiting, other = _peers("fail", "wait", "wait")
  assert failed[0] == 1 and "ValueError: no such thing" in failed[2]
  for code, _, stderr in (waiting, other):
    assert code == 1
    assert "process 0" in stderr and "ValueError: no such thing" in stderr


def test_ends_that_all_agree_on_are_no_loss():
  assert [end[:2] for end in _peers("done", "done")] == [(0, "done\n")] * 2
  ends = _peers("stop", "done")
  assert ends[1][:2] == (0, "done\n")
  assert "saved" in ends[0][2] and "failed" not in ends[1][2]


def test_messages_survive_the_wire():
  one, two = socket.socketpair()
  rendezvous.write(one, {"a": "ä" * 10})
  rendezvous.write(one, {"b": 1})
  assert rendezvous.read(two)["a"] == "ä" * 10  # pyright: ignore[reportOptionalSubscript]
  assert rendezvous.read(two)["b"] == 1  # pyright: ignore[reportOptionalSubscript]
  one.sendall(json.dumps({"c": 1}).encode() + b"\n")
  assert rendezvous.read(two) is None  # Not one of ours.
  one.close()
  assert rendezvous.read(two) is None
  two.close()
