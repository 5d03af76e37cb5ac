"""The doctor from a shell: alone, with others, with one that does not come."""

import re
import time

import pytest

from tests.vpd_jax import multihost


def _start(*flags, devices=4):
  return multihost.start(["-m", "vpd_jax.doctor", *flags], devices)


def _one(*flags, devices=4):
  return multihost.end([_start(*flags, devices=devices)])[0]


def _levels(out):
  """Topic -> levels of its lines."""
  found = {}
  for level, topic in re.findall(r"^(OK|WARN|FAIL) +(\w+)", out, re.M):
    found.setdefault(topic, []).append(level)
  return found


def test_alone_and_without_a_config(tmp_path):
  code, out, err = _one(f"--workdir={tmp_path}/not/yet", devices=1)
  assert code == 0, err
  levels = _levels(out)
  assert {"host", "versions", "processes", "port", "devices"} == set(levels)
  assert not any("FAIL" in found for found in levels.values())
  assert re.search(r"jax \d+\.\d+", out) and "1 x cpu" in out
  assert f"GiB free at {tmp_path}" in out


def test_two_processes_and_a_config_that_fits():
  port = multihost.free_port()
  flags = [f"--config={multihost.CONFIG}", "--config.sharding.mesh.fsdp=2"]
  flags.append("--config.sharding.strategy=fsdp")
  runs = [_start(*flags, *multihost.member(port, 2, i)) for i in range(2)]
  (code, out, err), (other, other_out, _) = multihost.end(runs)
  assert (code, other) == (0, 0), err
  assert _levels(out)["host"] == ["OK"] * 2 or "WARN" in out
  assert f"all 2 came (flags); each reaches localhost:{port}" in out
  assert "8 x cpu" in out and "collective over all devices" in out
  assert "data=4, fsdp=2" in out and "8 examples over 8 ways: 1 each" in out
  # The state of 4 x 2 devices: half of most parameters on each.
  assert re.search(r"trained parameters 0\.0\d MB, gradients", out)
  assert not _levels(other_out)  # One table, on process 0.


def test_host_that_does_not_come_is_named_in_time():
  port = multihost.free_port()
  start = time.monotonic()
  runs = [
    _start(f"--config={multihost.CONFIG}", *multihost.member(port, 3, i, 5))
    for i in (0, 2)
  ]
  (code, out, _), (other, other_out, _) = multihost.end(runs)
  assert time.monotonic() - start < 100
  assert (code, other) == (1, 1)
  for text in (out, other_out):
    assert "FAIL processes" in text
    assert "1 of 3 processes did not come within 5 s: process 1" in text
  assert _levels(out)["host"] == ["OK"] * 2 or "WARN" in out


@pytest.mark.parametrize(
  "flags,message",
  [
    (
      ["--config.sharding.mesh.fsdp=3"],
      r"FAIL config +sharding.mesh.fsdp=3 does not fit 4 devices.*1, 2 or 4",
    ),
    (["--config.input.batch_size=6"], r"FAIL config +.*=6 .*try 4 or 8"),
    (["--config.distributed.coordinator=a:1"], r"FAIL processes +.*lacks"),
  ],
)
def test_config_that_does_not_fit_is_named(flags, message):
  code, out, _ = _one(f"--config={multihost.CONFIG}", *flags)
  assert code == 1
  assert re.search(message, out)
