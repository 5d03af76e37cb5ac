"""Many programs in flight: order, sameness, clocks, and what is lost."""

import dataclasses
import hashlib
import io
import os
import signal
import time

import numpy as np
import PIL.Image
import pytest

from data_gen.sandbox import engine
from data_gen.sandbox import executor as executor_lib
from data_gen.tools import server
from data_gen.tools import tool as tool_lib
from data_gen.trace import events
from tests.sandbox import contained

# What becomes of a call is in its own argument.
FAULTY = """
import os, time
from data_gen.tools import api, tool

class Tool:
  def __init__(self, call, uses_pixels=False, timeout_s=30.0):
    shape = api.CALLS[call]
    self.spec = tool.Spec(call, "1", dict(shape.arguments), shape.result,
                          uses_pixels, batch_limit=8, timeout_s=timeout_s)

  def run_batch(self, calls):
    return [self.answer(str(next(iter(c.arguments.values()), "")))
            for c in calls]

  def answer(self, text):
    if text == "die":
      os._exit(3)
    if text == "hang":
      time.sleep(600)
    if text == "raise":
      raise ValueError("no idea")
    if text == "wrong":
      return 5
    return [] if self.spec.call == "find" else "fine"
"""
# Blocks for good without using the processor.
BLOCK = "import _thread\nlock = _thread.allocate_lock()\nlock.acquire()\n"
STAY = {
  "stays": "send(dict(kind='answer', text='x'))\nlock.acquire()",
  "spins": "send(dict(kind='answer', text='x'))\nwhile True: pass",
  "closes": "os.close(own_socket())\nlock.acquire()",
  "closes after its word": "send(dict(kind='answer', text='x'))\n"
  "os.close(own_socket())\nlock.acquire()",
}


@pytest.fixture(autouse=True)
def _time_limit():
  """An engine that waits for nothing fails its test, and not the whole run."""

  def give_up(*_):
    raise TimeoutError("the engine still waits")

  before = signal.signal(signal.SIGALRM, give_up)
  signal.alarm(40)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def executor():
  with contained.start() as executor:
    yield executor


@pytest.fixture(scope="module")
def ungated(tmp_path_factory):
  with contained.start_ungated(tmp_path_factory.mktemp("ungated")) as executor:
    yield executor


@pytest.fixture
def faulty(tmp_path, monkeypatch):
  """Config of tools that fail as their argument says."""
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/__init__.py").touch()
  (tmp_path / "mine/faulty.py").write_text(FAULTY)
  monkeypatch.syspath_prepend(str(tmp_path))

  def section(call, **options):
    return {"name": "mine.faulty", "call": call, **options}

  return section


class Tools:
  """Answers "fine", or no boxes, once `due(question)` says so.

  Attributes:
    questions: of the calls so far, as they came.
    answered: the same, as they were answered.
    waiting: calls without an answer so far.
  """

  def __init__(self, due=lambda question: True):
    self._is_due = due
    self.waiting = {}
    self.questions = []
    self.answered = []

  def submit(self, token, call, image, box, arguments):
    question = next(iter(arguments.values()))
    self.questions.append(question)
    self.waiting[token] = call, question

  def poll(self, flush):
    due = [t for t, (_, q) in self.waiting.items() if self._is_due(q)]
    answers = []
    for token in due:
      call, question = self.waiting.pop(token)
      self.answered.append(question)
      value = [] if call == "find" else "fine"
      answers.append((token, tool_lib.Answer("value", value)))
    return answers

  def files(self):
    return ()

  def next_deadline_s(self):
    return time.monotonic() + 0.01 if self.waiting else None


class Seconds:
  """Is due as many seconds after its first poll as the question says."""

  def __init__(self):
    self._since_s = {}

  def __call__(self, question):
    now_s = time.monotonic()
    return now_s - self._since_s.setdefault(question, now_s) >= float(question)


def job(body, image=None, before=""):
  lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
  text = f"{before}def execute_command(image):\n{lines}\n"
  return engine.Job(text, image)


def ask(question, then="return 'done'"):
  call = f"ImagePatch(image).visual_question_answering({str(question)!r})"
  return job(f"answer = {call}\n{then}")


def plain(outcomes):
  """Outcomes less what depends on the clock."""
  return [dataclasses.replace(o, wall_s=0.0) for o in outcomes]


def descendants(pid):
  """State of each process under `pid`, by its number."""
  parents, states = {}, {}
  for name in filter(str.isdigit, os.listdir("/proc")):
    try:
      with open(f"/proc/{name}/stat") as f:
        state, parent = f.read().rpartition(")")[2].split()[:2]
    except OSError:
      continue
    parents[int(name)], states[int(name)] = int(parent), state
  found = {pid}
  while new := {p for p, up in parents.items() if up in found} - found:
    found |= new
  return {p: states[p] for p in found - {pid}}


def settled(executor, number, timeout_s=5.0):
  """Whether so many processes are left under the worker before long."""
  end_s = time.monotonic() + timeout_s
  while time.monotonic() < end_s:
    if len(descendants(executor._zygote.pid)) == number:
      return True
    time.sleep(0.02)
  return False


def picture(color):
  data = io.BytesIO()
  pixels = np.full((48, 48, 3), 128, np.uint8)
  pixels[5:15, 6:16] = color
  pixels[25:35, 30:40] = 210, 40, 40
  PIL.Image.fromarray(pixels).save(data, "PNG")
  encoded = data.getvalue()
  return tool_lib.Image(hashlib.sha256(encoded).hexdigest(), encoded)


def mixed_jobs(number):
  """Programs of all kinds of ends, on three images and on none."""
  images = [picture((40, 70, 205)), picture((45, 160, 70)), None, picture(255)]
  bodies = (
    """
things = ImagePatch(image).find("object")
print(f"There are {len(things)} objects.")
for thing in things:
  print(thing, thing.visual_question_answering("What color is this?"))
return formatting_answer(len(things))""",
    "return ImagePatch(image).image_caption()",
    "return language_question_answering('What is the opposite of up?', {n} > 3)",
    "return [1, 2][{n}]",
    "return ImagePatch(image).find(' ')",
    "return ImagePatch(image).find(object_name={n})",
    "print('x' * {n})\nreturn {n}",
    """
try:
  return ImagePatch(image).visual_question_answering("What is {n}?")
except Exception:
  return "swallowed" """,
    "return ocr(ImagePatch(image))",
    "def f(x): return f(x + {n})\nreturn f(0)",
    "import os\nreturn 1",
    "while True: print('flood' * 99)",
    """
red, = ImagePatch(image).find("red square")
return formatting_answer(red.compute_depth() > 0.{n}5)""",
  )
  # One image after the other, so that companions in a batch differ.
  return [
    job(bodies[i % len(bodies)].replace("{n}", str(i % 7)), images[i % 4])
    for i in range(number)
  ]


class TestOrder:
  def test_outcomes_come_in_the_order_of_jobs(self, executor):
    tools = Tools(Seconds())
    delays = ["0.6", "0.3", "0"]
    start_s = time.monotonic()
    jobs = [ask(d, f"return '{d}'") for d in delays]
    done = [o.answer for o in executor.run_all(jobs, tools, in_flight=8)]
    assert done == delays
    assert tools.answered == delays[::-1]
    assert time.monotonic() - start_s < 0.85  # All waited together.

  def test_a_blocked_program_does_not_hold_back_others(self, executor):
    tools = Tools(lambda q: q != "slow" or len(tools.questions) >= 12)
    jobs = [ask("slow"), *(ask(i) for i in range(14))]
    done = list(executor.run_all(jobs, tools, in_flight=4))
    assert [o.status for o in done] == ["ok"] * 15
    assert tools.answered.index("slow") >= 8

  @pytest.mark.parametrize("in_flight", [1, 3])
  def test_jobs_are_taken_as_there_is_room(self, executor, in_flight):
    taken, most, far_s = 0, 4 * in_flight, []

    def jobs():
      nonlocal taken
      for number in range(10 * in_flight):
        taken += 1
        if taken == most:
          far_s.append(time.monotonic())
        yield ask("slow" if number == 0 else "quick")

    def is_due(question):
      if question == "quick" or in_flight == 1:
        return True
      return bool(far_s) and time.monotonic() > far_s[0] + 0.3

    given, ahead = 0, []
    for outcome in executor.run_all(jobs(), Tools(is_due), in_flight):
      assert outcome.status == "ok"
      ahead.append(taken - given)
      given += 1
    assert given == taken == 10 * in_flight
    assert max(ahead) == (most if in_flight > 1 else 1)

  def test_one_pass_at_a_time(self, executor):
    first = executor.run_all([ask(i) for i in range(3)], Tools(), in_flight=1)
    assert next(first).status == "ok"
    with pytest.raises(RuntimeError, match="runs programs already"):
      next(executor.run_all([ask("x")], Tools()))
    assert [o.status for o in first] == ["ok"] * 2
    assert contained.is_well(executor)

  def test_nothing_to_run(self, executor):
    assert list(executor.run_all([], Tools())) == []

  @pytest.mark.parametrize("in_flight", [0, -1, engine.MAX_IN_FLIGHT + 1])
  def test_in_flight_out_of_range(self, executor, in_flight):
    with pytest.raises(ValueError, match=f"in_flight={in_flight} must be from"):
      executor.run_all([], Tools(), in_flight)


class TestSameness:
  def test_outcomes_do_not_depend_on_in_flight(self, executor):
    config = {
      "find": {"name": "world_find"},
      "visual_question_answering": {"name": "world_vqa", "process": "other"},
      "image_caption": {"name": "world_caption"},
      "compute_depth": {"name": "world_depth"},
      "language_question_answering": {"name": "world_knowledge"},
    }  # And none for ocr.
    results = []
    for in_flight in (1, 8, 64):
      with server.ToolServer(config) as tools:
        jobs = mixed_jobs(104)
        results.append(plain(executor.run_all(jobs, tools, in_flight)))
    assert results[0] == results[1] == results[2]
    classes = {outcome.error_class for outcome in results[0]}
    assert classes >= {
      *("", "index", "tool_refused", "tool_missing", "bad_image", "refused"),
      *("recursion", "output"),
    }
    first = results[0][0]
    assert first.answer == "2"
    assert [e.tool for e in first.trace] == [
      *("find", events.PRINT, "visual_question_answering", events.PRINT),
      *("visual_question_answering", events.PRINT, events.OUTPUT),
    ]
    assert first.trace[3].text.endswith("blue")

  def test_a_swallowed_fault_of_a_tool_is_the_runs_error(self, executor):
    config = {"ocr": {"name": "stub", "call": "ocr"}}
    with server.ToolServer(config) as tools:
      body = "try: ImagePatch(image).find('x')\nexcept: pass\nreturn 'fine'"
      (outcome,) = executor.run_all([job(body)], tools)
    assert (outcome.error_class, outcome.answer) == ("tool_missing", None)


class TestClock:
  def test_waits_for_tools_are_not_counted(self):
    with contained.start(wall_time_s=0.5) as executor:
      jobs = [ask("1.2"), ask("0.9")]
      done = list(executor.run_all(jobs, Tools(Seconds())))
    assert [o.status for o in done] == ["ok", "ok"]
    assert done[0].wall_s >= 1.2

  def test_all_else_is_counted_and_adds_up(self, tmp_path):
    body = "lock.acquire(timeout={})\n"
    call = f"{contained.PRELUDE}{BLOCK}"
    asks = "ImagePatch(image).visual_question_answering('0.7')\n"
    bodies = {
      "long": "lock.acquire()",
      "in pieces": (body.format(0.4) + asks) * 2 + "return 'done'",
      "short": body.format(0.3) + asks + "return 'done'",
    }
    jobs = [job(b, before=call) for b in bodies.values()]
    with contained.start_ungated(tmp_path, wall_time_s=0.7) as executor:
      done = list(executor.run_all(jobs, Tools(Seconds())))
    assert [o.error_class for o in done] == ["wall_time", "wall_time", ""]
    assert "more than 0.7 s; sandbox.wall_time_s sets" in done[0].message
    assert done[0].status == "killed"
    assert 0.7 <= done[0].wall_s < 1.5

  def test_a_spinning_program_is_ended_beside_a_waiting_one(self):
    with contained.start(wall_time_s=0.4) as executor:
      jobs = [job("while True: pass"), ask("1")]
      spinning, waiting = executor.run_all(jobs, Tools(Seconds()))
    assert (spinning.error_class, waiting.error_class) == ("wall_time", "")


class TestLimits:
  BODY = (
    "for i in range({}): language_question_answering('Q' + str(i), False)\n"
  )

  @pytest.mark.parametrize(
    ("number", "error_class"), [(3, ""), (4, "llm_calls")]
  )
  def test_calls_of_a_language_model(self, number, error_class):
    looks = "for i in range(5): ImagePatch(image).find('x')\n"
    body = looks + self.BODY.format(number) + "return 'done'"
    tools = Tools()
    with contained.start(max_llm_calls=3) as executor:
      (outcome,) = executor.run_all([job(body)], tools)
    assert outcome.error_class == error_class
    assert outcome.tool_calls == len(tools.questions) == 8
    if error_class:
      assert outcome.status == "killed"
      assert outcome.message == (
        "used more than 3 calls of a language model; sandbox.max_llm_calls sets"
        " this limit"
      )

  def test_a_swallowed_limit_is_the_runs_error(self):
    body = "while True:\n  try: ImagePatch(image).find('x')\n  except: pass"
    with contained.start(max_tool_calls=7) as executor:
      (outcome,) = executor.run_all([job(body)], Tools())
    assert (outcome.error_class, outcome.tool_calls) == ("tool_calls", 7)
    assert len(outcome.trace) == 7


class TestFaults:
  @pytest.mark.parametrize(
    ("body", "error_class", "message"),
    [
      (
        "ocr(ImagePatch(image))",
        "tool_missing",
        "no tool is configured for ocr",
      ),
      ("find('raise')", "tool_error", "find failed: ValueError: no idea"),
      ("find('wrong')", "tool_error", "find must return boxes, got '5'"),
      ("find('hang')", "tool_timeout", "it took longer than 0.4 s"),
      ("find('die')", "tool_died", "it ended with exit code 3"),
      (
        "visual_question_answering('?')",
        "bad_image",
        "needs a JPEG or PNG image",
      ),
    ],
  )
  def test_each_is_the_runs_error_class(
    self, executor, faulty, body, error_class, message
  ):
    config = {
      "find": faulty("find", timeout_s=0.4),
      "visual_question_answering": faulty(
        "visual_question_answering", uses_pixels=True
      ),
    }
    image = tool_lib.Image("k", b"\xff\xd8 no JPEG")
    body = body if body.startswith("ocr") else f"ImagePatch(image).{body}"
    bad = job(f"\ntry: {body}\nexcept Exception: pass\nreturn 'fine'", image)
    good = job("return len(ImagePatch(image).find('x'))", image)
    with server.ToolServer(config) as tools:
      done = list(executor.run_all([good, bad, good], tools))
    assert [o.answer for o in done] == ["0", None, "0"]
    assert (done[1].status, done[1].error_class) == ("error", error_class)
    assert done[1].message.startswith("line 2: ")
    assert message in done[1].message

  def test_a_tool_host_killed_in_the_middle_changes_nothing(self, executor):
    config = {"find": {"name": "world_find"}} | {
      "visual_question_answering": {"name": "world_vqa"}
    }
    results = []
    for when in (None, 10):
      with server.ToolServer(config) as tools:

        def jobs(tools=tools, when=when):
          for number, one in enumerate(mixed_jobs(40)):
            if number == when:
              (host,) = tools._hosts
              os.kill(host._process.pid, signal.SIGKILL)
            yield one

        results.append(plain(executor.run_all(jobs(), tools, in_flight=8)))
        assert tools.stats()["restarts"] == {"tools": int(when is not None)}
    assert results[0] == results[1]

  def test_what_jobs_or_tools_raise_comes_through(self, executor, monkeypatch):
    def jobs():
      yield from [ask("never")] * 3
      raise KeyError("no more")

    number = len(descendants(executor._zygote.pid))
    with pytest.raises(KeyError, match="no more"):
      list(executor.run_all(jobs(), Tools(lambda q: False)))
    tools = Tools()
    monkeypatch.setattr(tools, "poll", lambda flush: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      list(executor.run_all([ask("x")], tools))
    assert settled(executor, number)
    assert contained.is_well(executor)


class TestLosses:
  @pytest.mark.parametrize("when", [0, 1, 14, 29])
  def test_a_worker_killed_in_the_middle_changes_nothing(self, when):
    def jobs(executor, when):
      for number in range(30):
        if number == when:
          os.kill(executor._zygote.pid, signal.SIGKILL)
        yield ask(f"{number}", f"print({number})\nreturn answer + '{number}'")

    with contained.start() as executor:
      number = len(descendants(executor._zygote.pid))
      unbroken = plain(executor.run_all(jobs(executor, None), Tools(), 8))
      before = executor._zygote.pid
      broken = plain(executor.run_all(jobs(executor, when), Tools(), 8))
      assert executor._zygote.pid != before
      assert settled(executor, number)
    assert broken == unbroken
    assert [o.answer for o in broken] == [f"fine{i}" for i in range(30)]

  def test_a_worker_killed_while_all_wait_for_tools(self):
    def kill_once(question):
      if len(tools.waiting) == 8 and not killed:
        killed.append(executor._zygote.pid)
        os.kill(executor._zygote.pid, signal.SIGKILL)
      return bool(killed)

    killed, tools = [], Tools(kill_once)
    with contained.start() as executor:
      jobs = [ask(i, f"return '{i}'") for i in range(8)]
      done = list(executor.run_all(jobs, tools, in_flight=8))
    assert killed
    assert [o.answer for o in done] == list("01234567")

  def test_a_caller_that_stops_early_leaves_nothing(self, executor):
    number = len(descendants(executor._zygote.pid))
    tools = Tools(lambda q: q != "never" and len(tools.questions) >= 8)
    jobs = [ask("x"), ask("x"), *[ask("never")] * 6]
    outcomes = executor.run_all(jobs, tools, in_flight=8)
    assert [next(outcomes).answer for _ in range(2)] == ["done"] * 2
    assert len(tools.waiting) == 6
    assert len(descendants(executor._zygote.pid)) >= number + 6
    outcomes.close()
    assert settled(executor, number)
    done = list(executor.run_all([ask("x")] * 5, tools, in_flight=2))
    assert [o.answer for o in done] == ["done"] * 5

  # With room for another one the engine looks for it, and finds none.
  @pytest.mark.parametrize("in_flight", [1, 8])
  @pytest.mark.parametrize("name", STAY)
  def test_a_program_that_does_not_leave_is_ended(
    self, ungated, name, in_flight
  ):
    jobs = [job(STAY[name], before=contained.PRELUDE + BLOCK)]
    number = len(descendants(ungated._zygote.pid))
    start_s = time.monotonic()
    (outcome,) = ungated.run_all(jobs, Tools(), in_flight)
    assert settled(ungated, number)
    assert time.monotonic() - start_s < 5  # The limit on wall time is 20.
    if name == "closes":
      assert (outcome.status, outcome.answer) == ("killed", None)
      assert outcome.error_class == "worker_died"
    else:
      assert outcome.answer == "x"

  def test_nor_does_it_stay_when_the_caller_stops_early(self, ungated):
    number = len(descendants(ungated._zygote.pid))
    stays = job(STAY["stays"], before=contained.PRELUDE + BLOCK)
    jobs = [stays, *[ask("never")] * 3]
    outcomes = ungated.run_all(jobs, Tools(lambda q: False), in_flight=4)
    assert next(outcomes).answer == "x"
    outcomes.close()
    assert settled(ungated, number)


def test_so_many_are_in_flight_at_once_and_nothing_is_left():
  files = len(os.listdir("/proc/self/fd"))
  ours = len(descendants(os.getpid()))
  number, most = 300, []

  def is_due(question):
    if len(tools.waiting) == number and not most:
      most.append(len(descendants(executor._zygote.pid)))
    return bool(most)

  tools = Tools(is_due)
  with contained.start() as executor:
    before = len(descendants(executor._zygote.pid))
    jobs = [ask(i, f"return '{i}'") for i in range(number)]
    done = list(executor.run_all(jobs, tools, in_flight=number))
    assert settled(executor, before)
  assert most == [before + number]
  assert [o.answer for o in done] == [str(i) for i in range(number)]
  assert len(os.listdir("/proc/self/fd")) == files
  assert len(descendants(os.getpid())) == ours
  assert "Z" not in descendants(os.getpid()).values()


def test_in_flight_one_keeps_to_one_process(executor):
  most = []

  def count(question):
    most.append(len(descendants(executor._zygote.pid)))
    return True

  before = len(descendants(executor._zygote.pid))
  jobs = [ask(i) for i in range(3)]
  assert len(list(executor.run_all(jobs, Tools(count), in_flight=1))) == 3
  assert set(most) == {before + 1}


def test_error_classes_have_a_status():
  assert set(executor_lib.ERROR_CLASSES.values()) == {
    *("refused", "error", "killed")
  }
