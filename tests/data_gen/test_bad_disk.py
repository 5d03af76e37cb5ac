"""A disk that fills up in the middle of a run, and the run after that."""

import json
import os
import resource
import subprocess
import sys

import pytest

from data_gen import run, shard_files
from tests import configs

# Files of more than so many bytes fail as on a full disk; 0 is no limit.
ENTRY = """
import json, resource, sys
from data_gen import run

if __name__ == "__main__":
  config_file, workdir, limit = sys.argv[1:]
  if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit),) * 2)
  with open(config_file) as f:
    config = json.load(f)
  run._parse = lambda argv: (config, workdir)
  sys.exit(run.main(sys.argv))
"""
# Each run writes these for itself.
NOT_DATA = ("timings.json", ".lock", "config.json", "measured")
ROOM = "What is finished is kept: make room and run the same command again."


def get_config(num_workers):
  splits = {"train": {"num_images": 6, "num_shards": 2}}
  return configs.tiny_world() | {"splits": splits, "num_workers": num_workers}


def files(workdir):
  return {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in sorted(workdir.rglob("*"))
    if p.is_file() and not {p.name, p.parent.name} & set(NOT_DATA)
  }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  run.generate(get_config(1), workdir)
  return files(workdir)


@pytest.fixture
def command(tmp_path):
  """Runs the entry; with `prefix` a shell sets up what it runs in."""
  (tmp_path / "entry.py").write_text(ENTRY)

  def command(workdir, limit=0, num_workers=1, prefix=()):
    config = tmp_path / f"config{num_workers}.json"
    config.write_text(json.dumps(get_config(num_workers)))
    return subprocess.run(
      [
        *(*prefix, sys.executable, str(tmp_path / "entry.py")),
        *(str(config), str(workdir), str(limit)),
      ],
      env=os.environ | {"PYTHONPATH": str(configs.ROOT)},
      capture_output=True,
      text=True,
      timeout=60,
    )

  return command


def largest(unbroken, stage, kind):
  """Bytes of the largest of a stage's files that end so."""
  sizes = [
    len(data)
    for name, data in unbroken.items()
    if name.startswith(f"{stage}/") and name.endswith(kind)
  ]
  return max(sizes)


def check_whole(workdir, unbroken):
  """What has its final name is what an unbroken run leaves."""
  for name, data in files(workdir).items():
    if ".tmp-" in name:
      continue
    if not name.endswith("stage.json"):  # Says how far it came.
      assert data == unbroken[name], name
    else:
      json.loads(data)


@pytest.mark.parametrize(
  ("stage", "num_workers"), [("questions", 1), ("programs", 2), ("runs", 1)]
)
def test_a_full_disk_is_named_and_costs_nothing_that_was_done(
  unbroken, command, tmp_path, stage, num_workers
):
  kind = "tfrecord" if stage == "questions" else "jsonl"
  limit = largest(unbroken, stage, kind) - 1
  stages = ("questions", "programs", "runs")
  before = stages[: stages.index(stage)]
  for earlier in before:  # Or it would stop there.
    assert largest(unbroken, earlier, "") <= limit
  workdir = tmp_path / "work"
  done = command(workdir, limit, num_workers)
  assert done.returncode == 1
  error = done.stderr.splitlines()[-1]
  assert error.startswith(f"error: cannot write {workdir}/{stage}/train-0000")
  assert error.endswith(f"{kind}: File too large. {ROOM}")
  assert "Traceback" not in done.stderr
  check_whole(workdir, unbroken)
  if num_workers == 1:  # Else one was ended in the middle of its own shard.
    assert not list(workdir.rglob("*.tmp-*"))
  for earlier in before:
    assert json.loads((workdir / earlier / "stage.json").read_text())[
      "is_complete"
    ]
  run.generate(get_config(num_workers), workdir)
  assert files(workdir) == unbroken


def test_no_room_for_the_first_file(command, tmp_path):
  done = command(tmp_path / "work", limit=10)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    f"error: cannot write {tmp_path / 'work'}/config.json: File too large."
    f" {ROOM}"
  )


def test_a_cache_that_cannot_grow_costs_no_answer(unbroken, tmp_path):
  config = get_config(1) | {"engine": {"cache_dir": str(tmp_path / "cache")}}
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  enough = max(map(len, unbroken.values()))  # For the run, not for the cache.
  resource.setrlimit(resource.RLIMIT_FSIZE, (enough, before[1]))
  try:
    with pytest.warns(
      UserWarning, match="cache of tool answers .* run goes on"
    ):
      run.generate(config, tmp_path / "work")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert files(tmp_path / "work") == unbroken
  measured = shard_files.read_measured(tmp_path / "work/runs")
  assert measured[-1]["tools"]["cache"]["unwritten"] > 0


def test_a_small_disk_of_its_own(unbroken, command, tmp_path):
  """A real full disk, in a mount namespace: every write fails, not one."""
  disk, kept = tmp_path / "disk", tmp_path / "kept"
  disk.mkdir()
  script = (
    f"mount -t tmpfs -o size=140k none {disk} || exit 77;"
    f' "$@"; code=$?; cp -r {disk}/work {kept}; exit $code'
  )
  prefix = ("unshare", "-rm", "sh", "-c", script, "sh")
  try:
    done = command(disk / "work", prefix=prefix)
  except FileNotFoundError:
    pytest.skip("there is no program `unshare`")
  if done.returncode == 77 or "unshare" in done.stderr:
    pytest.skip("this host lets nobody mount a disk")
  assert done.returncode == 1
  error = done.stderr.splitlines()[-1]
  assert error.startswith(f"error: cannot write {disk / 'work'}")
  assert "No space left on device" in error
  assert "Traceback" not in done.stderr
  check_whole(kept, unbroken)
  run.generate(get_config(1), kept)
  assert files(kept) == unbroken


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
  shard = shard_files.Shard("train", 0, 1)
  out = shard_files.ShardOutput(tmp_path, shard)
  out.open("other")
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
  try:
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/frames: "):
      out.write_frame(b"x" * 100_000, "frames")
    out.discard()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not list(tmp_path.iterdir())


def test_an_output_cut_short_on_disk_is_made_again(unbroken, tmp_path):
  workdir = tmp_path / "work"
  run.generate(get_config(1), workdir)
  path = workdir / "runs/train-00001-of-00002.jsonl"
  path.write_bytes(path.read_bytes()[:-100])
  run.generate(get_config(1), workdir)
  assert files(workdir) == unbroken
