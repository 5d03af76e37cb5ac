"""Hostile programs among ordinary ones that run at the same time."""

import signal
import time

import pytest

from data_gen.sandbox import engine
from tests.sandbox import contained

# What each does to the worker, the host or the others; none ends well.
HOSTILE = {
  "processor": "while True: pass",
  "memory": "x = [0]\nwhile True: x += x",
  "output": "while True: print('x' * 99)",
  "crash": "ctypes.string_at(0)",
  "exit": "os._exit(3)",
  "hang_up": "os.close(own_socket())\nwhile True: pass",
  "noise": "send_raw(b'\\xff' * 10 ** 6)",
  "no_reply_read": "while True: send(dict(kind='call', tool='image_caption',"
  " box=None, arguments={}, line=1))",
  "kill": """
for pid in range(1, 200):
  said_by(os.kill, pid, signal.SIGKILL)
raise ValueError""",
  "descriptors": """
for fd in range(200):
  if not is_open(fd): said_by(os.close, fd)
raise ValueError""",
}


@pytest.fixture(scope="module")
def outcomes(ungated):
  """Of each hostile program and of the ordinary one behind it, by name."""
  jobs = []
  for name, body in HOSTILE.items():
    jobs += [job(body), job(f"print({name!r})\nreturn {name!r}")]
  done = list(ungated.run_all(jobs, contained.NoTools(), in_flight=8))
  pairs = zip(done[::2], done[1::2], strict=True)
  return dict(zip(HOSTILE, pairs, strict=True))


def job(body):
  lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
  main = f"def execute_command(image):\n{lines}\n"
  return engine.Job(contained.PRELUDE + main)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_one_has_no_answer(outcomes, name):
  hostile, _ = outcomes[name]
  assert hostile.status in ("killed", "error")
  assert hostile.answer is None


@pytest.mark.parametrize("name", HOSTILE)
def test_ordinary_one_beside_it_has_its_own(outcomes, name):
  _, ordinary = outcomes[name]
  assert (ordinary.status, ordinary.answer) == ("ok", name)
  assert [event.value for event in ordinary.trace] == [name, name]


def test_a_worker_lost_between_programs_is_started_again():
  def give_up(*_):
    raise TimeoutError("the engine waits for a worker that is gone")

  before = signal.signal(signal.SIGALRM, give_up)
  try:
    with contained.start() as executor:
      process = executor._zygote._process
      process.kill()
      process.wait()
      time.sleep(0.2)  # The worker itself ends with its parent.
      signal.alarm(20)
      assert contained.is_well(executor)
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
