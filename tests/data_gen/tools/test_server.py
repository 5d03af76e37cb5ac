"""Batches, equal calls, faults of every class, and processes that are lost."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from data_gen.tools import api, server, tool

# What a call does is in its own argument, so that no other call decides it.
PROBE = """
import json, os, sys, time
import numpy as np
from data_gen.tools import api, tool

if os.environ.get("PROBE_SLEEPS_AT_IMPORT"):
  time.sleep(600)
if os.environ.get("PROBE_DIES_AT_IMPORT"):
  sys.stderr.write("first\\nno such device\\n")
  os._exit(1)

class Tool:
  def __init__(self, log="", call="find", uses_pixels=False, batch_limit=4,
               timeout_s=30.0, version="1", weights=""):
    self.log = log
    shape = api.CALLS[call]
    self.spec = tool.Spec(call, version, dict(shape.arguments), shape.result,
                          uses_pixels, batch_limit, timeout_s, weights)

  def run_batch(self, calls):
    print("a tool that prints", flush=True)
    sys.stderr.write("and one that warns\\n" * 100)
    names = [str(next(iter(c.arguments.values()), "")) for c in calls]
    if self.log:
      with open(self.log, "a") as f:
        f.write(json.dumps({
          "call": self.spec.call, "names": names, "pid": os.getpid(),
          "images": [id(c.image) for c in calls]}) + "\\n")
    if "together" in names and len(names) > 1:
      raise ValueError("two is a crowd")
    return [self.answer(call, name) for call, name in zip(calls, names)]

  def answer(self, call, name):
    if name == "die":
      os._exit(3)
    if name.startswith("die unless "):
      path = name.removeprefix("die unless ")
      if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3)
    if name == "hang":
      time.sleep(600)
    if name == "raise":
      raise ValueError("cannot\\nanswer")
    if name == "wrong":
      return None
    if self.spec.call == "ocr":
      return "words"
    x = 1 + sum(name.encode()) % 900
    if call.image is not None:
      x = 1 + int(call.image.sum()) % 900
    return [[call.box[0], 0, call.box[2], x]]
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
  """Options of a tool `find` of a module of one's own, and its log."""
  folder = tmp_path / "modules" / "my_tools"
  folder.mkdir(parents=True)
  (folder / "__init__.py").touch()
  (folder / "probe.py").write_text(PROBE)
  monkeypatch.syspath_prepend(str(folder.parent))
  return {"name": "my_tools.probe", "log": str(tmp_path / "log.jsonl")}


def logged(probe):
  try:
    with open(probe["log"]) as f:
      return [json.loads(line) for line in f]
  except FileNotFoundError:
    return []


def batches(probe):
  return [row["names"] for row in logged(probe)]


def submit(made, *names, image=None, call="find"):
  for name in names:
    made.submit(name, call, image, None, {"object_name": name})


def gather(made, number, flush=True, timeout_s=20.0):
  """Polls as an event loop does, till `number` answers are there."""
  answers = []
  end_s = time.monotonic() + timeout_s
  while len(answers := answers + made.poll(flush)) < number:
    assert time.monotonic() < end_s, f"{len(answers)} of {number} answers"
    wait(made)
  assert len(answers) == number
  return dict(answers)


def wait(made):
  deadline_s = made.next_deadline_s()
  now_s = time.monotonic()
  timeout_s = 1.0 if deadline_s is None else deadline_s - now_s
  server.connection.wait(made.files(), min(1.0, max(0.0, timeout_s)))


def settle(made, number_of_batches, probe):
  end_s = time.monotonic() + 10
  while len(logged(probe)) < number_of_batches:
    assert time.monotonic() < end_s
    time.sleep(0.01)


def picture(value, file_format="PNG"):
  data = io.BytesIO()
  PIL.Image.fromarray(np.full((32, 40, 3), value, np.uint8)).save(
    data, file_format
  )
  encoded = data.getvalue()
  return tool.Image(hashlib.sha256(encoded).hexdigest(), encoded)


def test_a_batch_leaves_when_it_is_full(probe):
  with server.ToolServer({"find": probe}, batch_window_s=60) as made:
    submit(made, "a", "b", "c")
    made.poll(flush=False)
    assert made.next_deadline_s() > time.monotonic() + 30
    submit(made, "d", "e")
    assert made.next_deadline_s() <= time.monotonic()
    assert set(gather(made, 4, flush=False)) == {"a", "b", "c", "d"}
  assert batches(probe) == [["a", "b", "c", "d"]]


def test_a_batch_leaves_after_its_window(probe):
  with server.ToolServer({"find": probe}, batch_window_s=0.3) as made:
    submit(made, "a", "b")
    start_s = time.monotonic()
    assert made.poll(flush=False) == []
    assert start_s < made.next_deadline_s() <= start_s + 0.3
    gather(made, 2, flush=False)
    assert time.monotonic() - start_s > 0.25
  assert batches(probe) == [["a", "b"]]


def test_a_batch_leaves_when_nobody_can_go_on(probe):
  with server.ToolServer({"find": probe}, batch_window_s=60) as made:
    submit(made, "a", "b")
    made.poll(flush=True)
    submit(made, "c", "d")  # Gathers while the process is busy.
    gather(made, 4)
    assert made.next_deadline_s() is None
  assert batches(probe) == [["a", "b"], ["c", "d"]]


def test_equal_calls_run_once(probe):
  with server.ToolServer({"find": probe}) as made:
    for token in range(3):
      made.submit(token, "find", None, None, {"object_name": "a"})
    made.submit(3, "find", None, api.WHOLE, {"object_name": "a"})
    made.submit(4, "find", None, (0, 0, 9, 9), {"object_name": "a"})
    answers = gather(made, 5)
    made.submit(5, "find", None, None, {"object_name": "a"})
    answers |= gather(made, 1)
    stats = made.stats()["calls"]["find"]
  assert answers[0] == answers[3] == answers[5] != answers[4]
  assert batches(probe) == [["a", "a"]]
  assert stats["calls"] == 6
  assert (stats["joined"], stats["memory_hits"]) == (3, 1)
  assert (stats["executed"], stats["batches"]) == (2, 1)


def test_only_the_latest_answers_are_remembered(probe, monkeypatch):
  monkeypatch.setattr(server, "MAX_REMEMBERED", 2)
  with server.ToolServer({"find": {**probe, "batch_limit": 1}}) as made:
    for name in ("a", "b", "a", "c", "a", "b"):
      submit(made, name)
      gather(made, 1)
  assert batches(probe) == [["a"], ["b"], ["c"], ["b"]]


def test_answers_do_not_depend_on_the_batch_limit(probe):
  names = ["a", "b", "raise", "together", "wrong", "c", "die", "d", "e"]
  results = []
  for limit in (1, 3, 64):
    with server.ToolServer({"find": {**probe, "batch_limit": limit}}) as made:
      submit(made, *names)
      results.append(gather(made, len(names)))
  assert results[0] == results[1] == results[2]
  assert {n: a.kind for n, a in results[0].items() if a.kind != "value"} == {
    "raise": "fault",
    "wrong": "fault",
    "die": "fault",
  }


def test_an_image_counts_only_where_pixels_are_looked_at(probe):
  dark, light = picture(1), picture(200)
  for uses_pixels, executed in ((False, 1), (True, 2)):
    section = {"find": {**probe, "uses_pixels": uses_pixels}}
    with server.ToolServer(section) as made:
      for token, image in enumerate((dark, light)):
        made.submit(token, "find", image, None, {"object_name": "a"})
      answers = gather(made, 2)
      assert made.stats()["calls"]["find"]["executed"] == executed
      assert (answers[0] == answers[1]) == (executed == 1)


def test_a_call_that_kills_its_process_fails_alone(probe):
  with server.ToolServer({"find": probe}) as made:
    submit(made, "a", "die", "b")
    answers = gather(made, 3)
    stats = made.stats()
    submit(made, "c")
    assert gather(made, 1)["c"].kind == "value"
  assert answers["a"].kind == answers["b"].kind == "value"
  assert answers["die"].error_class == "tool_died"
  assert answers["die"].message == (
    "find expected an answer, got none: it ended with exit code 3"
  )
  assert stats["restarts"] == {"tools": 2}
  assert stats["calls"]["find"]["retried"] == 3
  assert stats["calls"]["find"]["faults"] == {"tool_died": 1}
  assert batches(probe)[:4] == [["a", "die", "b"], ["a"], ["die"], ["b"]]


def test_a_process_that_dies_once_costs_no_answer(probe, tmp_path):
  name = f"die unless {tmp_path / 'flag'}"
  with server.ToolServer({"find": probe}) as made:
    submit(made, name, "a")
    answers = gather(made, 2)
    assert made.stats()["restarts"] == {"tools": 1}
  assert {a.kind for a in answers.values()} == {"value"}


def test_a_process_that_dies_idle_is_started_again(probe):
  with server.ToolServer({"find": probe}) as made:
    submit(made, "a")
    gather(made, 1)
    files = set(made.files())
    os.kill(logged(probe)[0]["pid"], signal.SIGKILL)
    wait(made)
    assert made.poll(flush=False) == []
    submit(made, "b")
    assert gather(made, 1)["b"].kind == "value"
    assert set(made.files()) - files  # Or a loop would not watch the new one.
    assert made.stats()["restarts"] == {"tools": 1}
    assert made.stats()["calls"]["find"]["retried"] == 0


def test_a_process_that_keeps_ending_stops_the_run(probe):
  with server.ToolServer({"find": probe}) as made:
    (host,) = made._hosts
    with pytest.raises(server.ToolServerError, match=r"keeps ending .*code -9"):
      for number in range(1, 10):
        os.kill(host._process.pid, signal.SIGKILL)
        while host.restarts < number or not host.is_ready:
          wait(made)
          made.poll(flush=False)
    assert host.restarts == 3


def test_a_process_that_does_not_start_again_stops_the_run(probe, monkeypatch):
  with server.ToolServer({"find": probe}) as made:
    monkeypatch.setenv("PROBE_DIES_AT_IMPORT", "1")
    submit(made, "die")
    with pytest.raises(server.ToolServerError, match="no such device"):
      gather(made, 1)


def test_a_call_that_hangs_fails_alone(probe):
  section = {**probe, "timeout_s": 0.5}
  with server.ToolServer({"find": section}) as made:
    submit(made, "a", "hang")
    answers = gather(made, 2)
    assert made.stats()["restarts"] == {"tools": 2}
  assert answers["a"].kind == "value"
  assert answers["hang"].error_class == "tool_timeout"
  assert "find expected an answer, got none: it took longer than 0.5 s" in (
    answers["hang"].message
  )


def test_poll_does_not_wait_for_a_tool(probe):
  with server.ToolServer({"find": probe}) as made:
    submit(made, "hang")
    made.poll(flush=True)
    settle(made, 1, probe)
    start_s = time.monotonic()
    assert made.poll(flush=True) == []
    assert time.monotonic() - start_s < 1.0


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("raise", "find failed: ValueError: cannot answer"),
    ("wrong", "find must return boxes, got 'None'"),
  ],
)
def test_faults_of_a_tool(probe, name, message):
  with server.ToolServer({"find": probe}) as made:
    submit(made, "a", name, "b")
    answers = gather(made, 3)
  assert answers[name] == tool.Answer(
    "fault", error_class="tool_error", message=message
  )
  assert answers["a"].kind == answers["b"].kind == "value"


def test_failures_are_not_kept(probe, tmp_path):
  section = {**probe, "batch_limit": 1}
  with server.ToolServer({"find": section}, cache_dir=str(tmp_path)) as made:
    for _ in range(2):
      submit(made, "raise")
      assert gather(made, 1)["raise"].kind == "fault"
  assert batches(probe) == [["raise"], ["raise"]]


def test_a_call_without_a_tool(probe):
  with server.ToolServer({"find": probe}) as made:
    made.submit(0, "ocr", None, None, {})
    assert made.next_deadline_s() <= time.monotonic()
    answer = gather(made, 1)[0]
  assert (answer.kind, answer.error_class) == ("fault", "tool_missing")
  assert "no tool is configured for ocr; config.tools has ['find']" in (
    answer.message
  )


def test_refused_arguments_do_not_reach_the_tool(probe):
  with server.ToolServer({"find": probe}) as made:
    made.submit(0, "find", None, None, {"object_name": 3})
    answer = gather(made, 1)[0]
    assert made.stats()["calls"]["find"]["refused"] == 1
  assert answer.kind == "refused"
  assert answer.message == "find: object_name must be str, not int"
  assert not batches(probe)


def test_bad_images(probe):
  good = picture(9, "JPEG")
  cut = tool.Image("0" * 64, good.encoded[:-200])
  section = {"find": {**probe, "uses_pixels": True}}
  with server.ToolServer(section) as made:
    for token, image in enumerate((good, cut, None)):
      made.submit(token, "find", image, None, {"object_name": "a"})
    answers = gather(made, 3)
    made.submit(3, "find", cut, None, {"object_name": "a"})  # Sent once more.
    answers |= gather(made, 1)
  assert answers[0].kind == "value"
  assert answers[1] == answers[3]
  assert {answers[i].error_class for i in (1, 2, 3)} == {"bad_image"}
  assert "find needs a JPEG or PNG image; this one cannot be decoded: " in (
    answers[1].message
  )
  assert answers[2].message == "find looks at pixels, and there is no image"


def test_an_image_is_sent_and_decoded_once(probe, monkeypatch):
  monkeypatch.setattr(server._host_process, "MAX_IMAGES", 2)
  images = [picture(value) for value in (1, 2, 3)]
  # Given once, its bytes are not needed any more.
  bare = [tool.Image(image.key, b"") for image in images]
  section = {"find": {**probe, "uses_pixels": True, "batch_limit": 1}}
  with server.ToolServer(section) as made:
    for i, image in enumerate((images[0], images[1], bare[0], images[2])):
      made.submit(i, "find", image, None, {"object_name": f"{i}"})
      assert gather(made, 1)[i].kind == "value"
    # Images 0 and 2 are the latest two; 1 is forgotten.
    made.submit(4, "find", bare[0], None, {"object_name": "4"})
    made.submit(5, "find", bare[1], None, {"object_name": "5"})
    answers = gather(made, 2)
  assert answers[4].kind == "value"
  assert answers[5].error_class == "bad_image"
  seen = [row["images"] for row in logged(probe)]
  assert seen[0] == seen[2]


def test_answers_are_kept_between_servers(probe, tmp_path):
  section = {"find": {**probe, "weights": "w1"}}
  answers = []
  for _ in range(2):
    with server.ToolServer(section, cache_dir=str(tmp_path)) as made:
      submit(made, "a", "b")
      answers.append(gather(made, 2))
      stats = made.stats()
  assert answers[0] == answers[1]
  assert batches(probe) == [["a", "b"]]
  assert stats["calls"]["find"]["disk_hits"] == 2
  assert stats["cache"]["is_writing"]
  for change in ({"version": "2"}, {"weights": "w2"}, {"batch_limit": 3}):
    changed = {"find": {**section["find"], **change}}
    with server.ToolServer(changed, cache_dir=str(tmp_path)) as made:
      submit(made, "a")
      gather(made, 1)
      assert made.stats()["calls"]["find"]["executed"] == 1


def test_broken_entries_are_made_again(probe, tmp_path):
  broken = {"a": "{", "b": "[[9, 0, 1, 1]]", "c": "null", "d": '"text"'}
  hits = []
  for is_damaged in (False, True, False):
    with server.ToolServer({"find": probe}, cache_dir=str(tmp_path)) as made:
      if is_damaged:
        rows = made._cache._db.execute("SELECT key FROM answers").fetchall()
        made._cache._db.executemany(
          "UPDATE answers SET value = ? WHERE key = ?",
          [(v, key.decode()) for v, (key,) in zip(broken.values(), rows)],
        )
      submit(made, *broken)
      answers = gather(made, 4)
      stats = made.stats()["calls"]["find"]
    assert {a.kind for a in answers.values()} == {"value"}
    assert stats["broken_cache_entries"] == 4 * is_damaged
    hits.append(stats["disk_hits"])
  assert hits == [0, 0, 4]
  assert batches(probe) == [list(broken)] * 2


def test_tools_share_a_process_or_have_one_of_their_own(probe):
  section = {
    "find": {**probe, "process": "gpu0"},
    "image_caption": {"name": "stub", "call": "image_caption"},
    "ocr": {**probe, "call": "ocr", "process": "gpu0"},
    "verify_property": {
      **probe,
      "call": "verify_property",
      "process": "gpu1",
      "version": "7",
    },
  }
  with server.ToolServer(section) as made:
    submit(made, "a")
    made.submit("ocr", "ocr", None, None, {})
    made.submit("cap", "image_caption", None, None, {})
    arguments = {"object_name": "hang", "attribute": "red"}
    made.submit("hang", "verify_property", None, None, arguments)
    answers = gather(made, 3)  # A busy process keeps no other waiting.
    assert set(made.stats()["restarts"]) == {"gpu0", "gpu1", "tools"}
    assert made.versions["verify_property"] == "7"
    assert made.weights == dict.fromkeys(section, "")
  assert answers["ocr"].value == "words"
  pids = {row["call"]: row["pid"] for row in logged(probe)}
  assert pids["find"] == pids["ocr"] != pids["verify_property"]


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"find": {"name": "stubb"}}, "cannot be made: KeyError.*mean 'stub'"),
    ({"find": {"name": "my_tools.nothing"}}, "no module 'my_tools.nothing'"),
    ({"find": {"name": "my_tools.probe", "size": 1}}, "TypeError.*'size'"),
  ],
)
@pytest.mark.usefixtures("probe")
def test_tools_that_cannot_be_made(section, message):
  with pytest.raises(server.ToolServerError, match=message):
    server.ToolServer(section)


def test_a_process_that_dies_at_its_start(probe, monkeypatch):
  monkeypatch.setenv("PROBE_DIES_AT_IMPORT", "1")
  with pytest.raises(
    server.ToolServerError,
    match=r"'tools' of the tools \['find'\] did not start: no such device",
  ):
    server.ToolServer({"find": probe})


def test_a_process_that_is_slow_to_start(probe, monkeypatch):
  monkeypatch.setenv("PROBE_SLEEPS_AT_IMPORT", "1")
  with pytest.raises(server.ToolServerError, match="raise start_timeout_s"):
    server.ToolServer({"find": probe}, start_timeout_s=0.2)


@pytest.mark.parametrize(
  ("section", "options", "message"),
  [
    ({"fnd": {"name": "stub"}}, {}, "config.tools.fnd: .* no such call"),
    ({"find": {"name": "stub", "x": {1}}}, {}, "must be plain values"),
    ({}, {"batch_window_s": -1}, "batch_window_s=-1 must be 0 or more"),
  ],
)
def test_configs_that_make_no_sense(section, options, message):
  with pytest.raises(ValueError, match=message):
    server.ToolServer(section, **options)


def test_processes_end_with_the_server(probe):
  with server.ToolServer({"find": probe}) as made:
    submit(made, "a")
    gather(made, 1)
    pid = logged(probe)[0]["pid"]
    assert is_alive(pid)
  assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
def test_processes_end_when_the_server_is_killed(probe):
  program = (
    "import sys, time; from data_gen.tools import server\n"
    f"made = server.ToolServer({{'find': {probe!r}}})\n"
    "made.submit(0, 'find', None, None, {'object_name': 'hang'})\n"
    "made.poll(True)\n"
    "time.sleep(60)\n"
  )
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  with subprocess.Popen([sys.executable, "-c", program], env=environment) as p:
    try:
      settle(None, 1, probe)
    finally:
      p.kill()
  pid = logged(probe)[0]["pid"]
  end_s = time.monotonic() + 5
  while is_alive(pid):
    assert time.monotonic() < end_s, "a process outlived its server"
    time.sleep(0.02)


def is_alive(pid):
  """Whether a process runs; one that only waits to be reaped does not."""
  try:
    with open(f"/proc/{pid}/stat") as f:
      return f.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False
