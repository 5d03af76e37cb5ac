"""The host's handle on the warm parent: starts, ends, losses."""

import os
import select
import signal
import time

import pytest

from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import zygote as zygote_lib

LIMITS = limits_lib.Limits(memory_mb=128, cpu_s=1)
PROGRAM = frames.encode("def execute_command(image): return 'fine'")


@pytest.fixture
def zygote():
  zygote = zygote_lib.Zygote(LIMITS)
  yield zygote
  zygote.close()


def endings(zygote, number, timeout_s=10.0):
  """So many endings, as (child's number, exit code)."""
  found, end_s = [], time.monotonic() + timeout_s
  while len(found) < number:
    assert time.monotonic() < end_s, f"{len(found)} of {number} endings"
    select.select([zygote], [], [], 0.1)
    found += [(child.number, code) for child, code, _ in zygote.take_endings()]
  return found


def last_word(child):
  reader = frames.Reader(child.connection.recv)
  child.connection.setblocking(True)
  return reader.next()


def test_a_child_runs_the_program_that_it_is_sent(zygote):
  child = zygote.start()
  child.connection.sendall(PROGRAM)
  assert last_word(child) == {"kind": "answer", "text": "fine"}
  assert endings(zygote, 1) == [(child.number, 0)]
  assert zygote.take_endings() == []


def test_a_child_that_waits_for_its_program_can_be_killed(zygote):
  first, second = zygote.start(), zygote.start()
  assert first.number != second.number
  zygote.kill(second)
  assert endings(zygote, 1) == [(second.number, -signal.SIGKILL)]
  zygote.kill(second)  # Is gone: no order, no second ending.
  first.connection.sendall(PROGRAM)
  assert endings(zygote, 1) == [(first.number, 0)]


def test_orders_wait_until_the_parent_takes_them(zygote):
  # The one that serves is a child of the first, where namespaces are allowed.
  tasks = f"/proc/{zygote.pid}/task/{zygote.pid}/children"
  with open(tasks) as f:
    server = int((f.read().split() or [zygote.pid])[0])
  os.kill(server, signal.SIGSTOP)
  try:
    children = [zygote.start() for _ in range(300)]
    for child in children:
      zygote.kill(child)
    assert len(zygote._orders) > 100
  finally:
    os.kill(server, signal.SIGCONT)
  expected = sorted((child.number, -signal.SIGKILL) for child in children)
  assert sorted(endings(zygote, 300)) == expected


def test_a_lost_parent_is_noticed_and_started_again(zygote):
  old = zygote.start()
  pid = zygote.pid
  os.kill(pid, signal.SIGKILL)
  select.select([zygote], [], [], 5)
  with pytest.raises(zygote_lib.ZygoteLost):
    zygote.take_endings()
  with pytest.raises(zygote_lib.ZygoteLost):
    for _ in range(2):
      zygote.start()
  zygote.restart()
  assert zygote.pid != pid
  new = zygote.start()
  assert new.number > old.number  # An answer for the old one is not its own.
  new.connection.sendall(PROGRAM)
  assert last_word(new)["text"] == "fine"
  assert endings(zygote, 1) == [(new.number, 0)]


def test_closing_ends_children_that_are_stuck():
  files = len(os.listdir("/proc/self/fd"))
  zygote = zygote_lib.Zygote(LIMITS)
  pid = zygote.pid
  for _ in range(3):
    child = zygote.start()
    child.connection.sendall(
      frames.encode("def execute_command(image):\n  while True: pass")
    )
  zygote.close()
  zygote.close()
  assert not os.path.exists(f"/proc/{pid}")
  assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize(
  ("code", "cpu_s", "error_class", "message"),
  [
    (limits_lib.EXIT_MEMORY, 0.1, "memory", "128 MB; sandbox.memory_mb"),
    (limits_lib.EXIT_OUTPUT, 0.1, "output", "65536 bytes of printed text"),
    (-signal.SIGXCPU, 1.0, "cpu_time", "1 s of CPU; sandbox.cpu_s"),
    (-signal.SIGKILL, 1.1, "cpu_time", "1 s of CPU"),
    (-signal.SIGKILL, 0.2, "worker_died", "ended by SIGKILL"),
    (-signal.SIGSEGV, 1.1, "worker_died", "ended by SIGSEGV"),
    (0, 0.0, "worker_died", "ended with exit code 0"),
    (3, 0.0, "worker_died", "ended with exit code 3"),
  ],
)
def test_how_a_child_left_names_the_limit(code, cpu_s, error_class, message):
  found = zygote_lib.ending_of(code, cpu_s, LIMITS)
  assert found[0] == error_class
  assert message in found[1]
