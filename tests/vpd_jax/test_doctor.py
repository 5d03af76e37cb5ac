"""The doctor: alone in this process, with others from a shell."""

import re
import time

import jax
import pytest

from tests import configs, entries
from tests.vpd_jax import multihost
from vpd_jax import clusters, distributed

doctor = entries.load("doctor")


def _levels(lines):
  """Topic -> levels of its lines; of a host without its number."""
  found = {}
  for line in lines:
    found.setdefault(line.topic.split()[0], []).append(line.level)
  return found


def _hosts(out):
  """Numbers of the hosts that a printed table has."""
  return re.findall(r"^(?:OK|WARN) +host (\d+)", out, re.M)


def _write_data(folder):
  folder.mkdir()
  for split in ("train", "validation"):
    (folder / f"world-{split}.tfrecord-00000-of-00001").touch()
  return folder


@pytest.fixture
def config(tmp_path):
  """The debug config, with data."""
  made = configs.load("debug.py")
  made.data_dir = str(_write_data(tmp_path / "data"))
  return made


def _check(config):
  """{topic: text} of what fails."""
  lines = doctor.check(config, None)
  return {line.topic: line.text for line in lines if line.level == "FAIL"}


def test_alone_and_without_a_config(tmp_path):
  lines = list(doctor.check(None, f"{tmp_path}/not/yet"))
  levels = _levels(lines)
  assert {"host", "versions", "processes", "port", "devices"} == set(levels)
  assert not any("FAIL" in found for found in levels.values())
  text = "\n".join(line.text for line in lines)
  assert re.search(r"jax \d+\.\d+", text) and "8 x cpu" in text
  assert f"GiB free at {tmp_path}" in text
  assert not (tmp_path / "not").exists()


def test_config_that_fits(config):
  levels = _levels(doctor.check(config, None))
  assert levels["data"] == ["OK"] * 2
  assert {"mesh", "batch", "state"} < set(levels)
  assert not any("FAIL" in found for found in levels.values())


@pytest.mark.parametrize(
  "change,topic,message",
  [
    (
      {"sharding": {"mesh": {"fsdp": 3}}},
      "config",
      r"sharding.mesh.fsdp=3 does not fit 8 devices.*1, 2, 4 or 8",
    ),
    ({"input": {"batch_size": 6}}, "config", r"=6 .*8 ways.*try 8"),
    ({"distributed": {"coordinator": "a:1"}}, "processes", "lacks"),
    ({"init": "no/such.npz"}, "init", "config.init=no/such.npz: no such file"),
    ({"init": "tests"}, "init", r"without model.json.*vpd_jax.convert"),
  ],
)
def test_config_that_does_not_fit_is_named(config, change, topic, message):
  config.unlock()
  config.update(change)
  failed = _check(config)
  assert set(failed) == {topic}
  assert re.search(message, failed[topic])


def test_data_that_is_not_there_is_named(config, tmp_path):
  (tmp_path / "data" / "world-train.tfrecord-00000-of-00001").rename(
    tmp_path / "data" / "world-train.tfrecord-00000-of-00002"
  )
  config.evaluators.validation.split = "test"
  failed = [
    line.text for line in doctor.check(config, None) if line.level == "FAIL"
  ]
  assert len(failed) == 2
  assert "config.input.data.world" in failed[0]
  assert "lacks 1 of 2 shards of split 'train'" in failed[0]
  assert re.search("evaluators.validation: .* no split 'test'", failed[1])
  config.data_dir = str(tmp_path / "gone")
  assert f"no data set folder {tmp_path}/gone" in _check(config)["data"]


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_devices_that_do_not_open_end_the_others_too(monkeypatch, error):
  def devices():
    raise error("no plugin")

  class Others:
    arrived = {0: doctor.facts("."), 1: doctor.facts(".")}
    errors = []

    def __enter__(self):
      return self

    def __exit__(self, kind, raised, traceback):
      self.errors.append(str(raised))

  monkeypatch.setattr(jax, "devices", devices)
  assert "no plugin" in _check(None)["devices"]  # Alone: a line.
  with monkeypatch.context() as patch:
    patch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(error()))
    patch.setenv("JAX_PLATFORMS", "cuda")
    assert "plugin of JAX_PLATFORMS='cuda'" in _check(None)["devices"]
  cluster = clusters.Cluster("flags", "a:1", 2, 1, {})
  monkeypatch.setattr(distributed, "find", lambda: cluster)
  monkeypatch.setattr(distributed, "join", lambda *_, **__: Others())
  lines = []
  with pytest.raises(ValueError, match="none it can use: no plugin"):
    lines.extend(doctor.check(None, None))
  assert Others.errors == ["JAX finds none it can use: no plugin"]


def _start(*flags):
  flags = (f"--config={multihost.CONFIG}", *flags)
  return multihost.start(["-m", "vpd_jax.doctor", *flags], devices=4)


def test_two_processes_and_a_config_that_fits(tmp_path):
  port = multihost.free_port()
  flags = [
    "--config.sharding.mesh.fsdp=2",
    "--config.sharding.strategy=fsdp",
    f"--config.data_dir={_write_data(tmp_path / 'data')}",
    f"--workdir={tmp_path / 'run'}",
  ]
  runs = [_start(*flags, *multihost.member(port, 2, i)) for i in range(2)]
  (code, out, err), (other, other_out, _) = multihost.end(runs)
  assert (code, other) == (0, 0), out + err
  assert _hosts(out) == ["0", "1"]
  assert f"all 2 came (flags); each reaches localhost:{port}" in out
  assert "8 x cpu" in out and "collective over all devices" in out
  assert f"all processes see {tmp_path / 'run'}" in out
  assert "data=4, fsdp=2" in out and "8 examples over 8 ways: 1 each" in out
  # The state of 4 x 2 devices: half of most parameters on each.
  assert re.search(r"trained parameters 0\.0\d MB, gradients", out)
  # One table, on process 0.
  assert not re.search("^(OK|WARN|FAIL) ", other_out, re.M)


def test_host_that_does_not_come_is_named_in_time():
  port = multihost.free_port()
  start = time.monotonic()
  runs = [_start(*multihost.member(port, 3, i, 5)) for i in (0, 2)]
  (code, out, _), (other, other_out, _) = multihost.end(runs)
  assert time.monotonic() - start < 100
  assert (code, other) == (1, 1)
  for text in (out, other_out):
    assert "FAIL processes" in text
    assert "1 of 3 processes did not come within 5 s: process 1" in text
  assert _hosts(out) == ["0", "2"]
