"""metrics.jsonl and TensorBoard hold each step once, also after a resume."""

import json
import os
import resource
import sys
import types

import pytest
from tensorboardX.proto import event_pb2

from vpd_jax.input import tfrecord
from vpd_jax.logs import writer


def _write(folder, steps, **options):
  log = writer.Writer(folder, **options)
  for step in steps:
    log.write(step, {"loss": step / 10})
  log.close()


def _events(folder):
  events = []
  for path in sorted((folder / "tensorboard").iterdir()):
    with open(path, "rb") as file:
      for payload in tfrecord.read_frames(file, path.name):
        events.append(event_pb2.Event.FromString(payload))
  return events


def test_lines_and_events_hold_the_values(tmp_path):
  _write(tmp_path, [1, 2])
  assert writer.read(tmp_path) == [
    {"step": 1, "loss": 0.1},
    {"step": 2, "loss": 0.2},
  ]
  scalars = [
    (event.step, value.tag, round(value.simple_value, 5))
    for event in _events(tmp_path)
    for value in event.summary.value
  ]
  assert scalars == [(1, "loss", 0.1), (2, "loss", 0.2)]


@pytest.mark.parametrize("resume_step", [0, 2, 3, 9])
def test_a_resumed_run_has_each_step_once(tmp_path, resume_step):
  _write(tmp_path, [1, 2, 3, 4])
  _write(tmp_path, range(resume_step + 1, 12), resume_step=resume_step)
  steps = [row["step"] for row in writer.read(tmp_path)]
  kept = [step for step in (1, 2, 3, 4) if step <= resume_step]
  assert steps == kept + list(range(resume_step + 1, 12))
  starts = [e.step for e in _events(tmp_path) if e.HasField("session_log")]
  assert resume_step + 1 in starts


def test_lines_that_are_written_again_are_there_once(tmp_path):
  log = writer.Writer(tmp_path)
  for step in (1, 2):
    log.write(step, {"loss": 1.0})
    log.write(step, {"validation/accuracy": 0.5})
  log.close()
  log = writer.Writer(tmp_path, resume_step=2, again=["validation/"])
  log.write(2, {"validation/accuracy": 0.7})
  log.close()
  rows = [list(row.values()) for row in writer.read(tmp_path)]
  assert rows == [[1, 1.0], [1, 0.5], [2, 1.0], [2, 0.7]]


def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch):
  log = writer.Writer(tmp_path)
  monkeypatch.setattr(log._events, "write", lambda *_: None)
  # The nearest to a full disk that needs no mount: no file over 4 kB.
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
  message = r"cannot write \S*/metrics.jsonl: .*Free some space.*goes on from"
  try:
    with pytest.raises(OSError, match=message):
      for step in range(100):
        log.write(step, {"a" * 90: 1.0})
    with pytest.raises(OSError, match=message):
      log.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_of_tensorboard_is_named_and_ends_writing(tmp_path):
  """More scalars than any queue of events has room for."""
  log = writer.Writer(tmp_path)
  log._file = open(os.devnull, "w")
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
  message = r"cannot write \S*/tensorboard: .*Free some space.*goes on from"
  try:
    with pytest.raises(OSError, match=message):
      for step in range(1000):
        log.write(step, {f"scalar {i}": 1.0 for i in range(13)})
    with pytest.raises(OSError, match=message):
      log.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_cut_short_is_dropped(tmp_path):
  _write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 3, "lo')
  _write(tmp_path, [3], resume_step=2)
  assert [row["step"] for row in writer.read(tmp_path)] == [1, 2, 3]


def test_a_broken_line_is_named(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 1}\n')
  message = r"metrics.jsonl:2: not a line of metrics: '\{\"loss\": 1\}'"
  with pytest.raises(ValueError, match=message):
    writer.Writer(tmp_path)
  with pytest.raises(ValueError, match=message):
    writer.read(tmp_path)


def test_lines_are_json_whatever_the_value(tmp_path):
  log = writer.Writer(tmp_path)
  log.write(1, {"a": float("nan"), "b": float("inf"), "c": 1})
  line = (tmp_path / "metrics.jsonl").read_text()  # There before `close`.
  log.close()
  assert json.loads(line, parse_constant=pytest.fail) == {
    "step": 1,
    "a": None,
    "b": None,
    "c": 1.0,
  }


def test_an_inactive_writer_writes_nothing(tmp_path):
  _write(tmp_path / "run", [1], is_active=False)
  assert not (tmp_path / "run").exists()


class _FakeWandb(types.ModuleType):
  """What we use of wandb; keeps what it is given."""

  def __init__(self):
    super().__init__("wandb")
    self.inits, self.rows, self.is_finished = [], [], False

  def init(self, **options):
    self.inits.append(options)
    return self

  def log(self, values, *, step):
    self.rows.append((step, values))

  def finish(self):
    self.is_finished = True


def test_wandb_gets_the_rows_and_a_resumed_run_is_the_same(
  tmp_path, monkeypatch
):
  fake = _FakeWandb()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  _write(tmp_path, [1, 2], wandb="vpd", config={"seed": 3})
  _write(tmp_path, [3], wandb="vpd", resume_step=2)
  assert fake.rows == [(n, {"loss": n / 10}) for n in (1, 2, 3)]
  first, second = fake.inits
  assert first["project"] == "vpd" and first["config"] == {"seed": 3}
  assert first["id"] == second["id"] and second["resume"] == "allow"
  assert fake.is_finished
  _write(tmp_path / "other", [1], wandb="vpd")
  assert fake.inits[2]["id"] != first["id"]


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # Import fails.
  with pytest.raises(ImportError, match=r"pip install 'vpd_jax\[wandb\]'"):
    writer.Writer(tmp_path, wandb="vpd")
  writer.Writer(tmp_path).close()
