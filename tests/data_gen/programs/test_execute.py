"""The stages `programs` and `runs` with a writer that repeats itself."""

import importlib.util
import json
import os
import pathlib

import pytest

from data_gen import records, run, shard_files
from data_gen.programs import execute
from data_gen.sandbox import executor
from tests import configs

ROOT = pathlib.Path(__file__).parents[3]
GOOD = """```python
def execute_command(image):
  things = ImagePatch(image).find("object")
  print(f"There are {len(things)} objects.")
  return formatting_answer(len(things))
```"""
BAD = "def execute_command(image):\n  return []["


@pytest.fixture
def config(tmp_path):
  path = ROOT / "configs/data_gen/world.py"
  spec = importlib.util.spec_from_file_location("config_under_test", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  rule = {"match": "", "completions": [GOOD, BAD, GOOD, GOOD, BAD]}
  (tmp_path / "rules.jsonl").write_text(json.dumps(rule))
  return module.get_config("size=tiny").to_dict() | {
    "num_workers": 1,
    "stages": ("questions", "programs", "runs"),
    "splits": {"train": {"num_images": 1, "num_shards": 1}},
    "llm": {"name": "replay", "path": str(tmp_path / "rules.jsonl")},
  }


def rows(cls, workdir, name):
  path = workdir / name / "train-00000-of-00001.jsonl"
  return list(shard_files.read_rows(cls, path))


def test_equal_programs_run_once_and_keep_their_rows(
  config, tmp_path, monkeypatch
):
  ran = []
  real = executor.Executor.run_all

  def counted(self, jobs, *rest):
    return real(self, (ran.append(job) or job for job in jobs), *rest)

  monkeypatch.setattr(executor.Executor, "run_all", counted)
  workdir = tmp_path / "work"
  run.generate(config, workdir)
  questions = rows(records.Question, workdir, "questions")
  programs = rows(records.Program, workdir, "programs")
  runs = rows(records.Run, workdir, "runs")
  assert len(programs) == len(runs) == 5 * len(questions)
  assert len(ran) == 2 * len(questions)
  first = runs[:5]
  assert [r.index for r in first] == [0, 1, 2, 3, 4]
  assert [r.error_class for r in first] == ["", "syntax", "", "", "syntax"]
  assert first[0].answer == first[2].answer
  assert int(first[0].answer) in range(2, 8)
  assert "```" not in programs[0].text
  assert programs[0].writer == "replay"
  assert programs[0].prompt.startswith("vpd_v1-")


def test_a_failing_writer_stops_the_run_and_keeps_the_questions(
  config, tmp_path, capsys
):
  rule = {"match": "no question has this", "completions": [GOOD]}
  (tmp_path / "rules.jsonl").write_text(json.dumps(rule))
  workdir = tmp_path / "work"
  with pytest.raises(RuntimeError, match=r"rules\.jsonl has no rule for"):
    run.generate(config, workdir)
  assert rows(records.Question, workdir, "questions")
  assert not list((workdir / "programs").glob("*.jsonl"))


# A finder of one's own that says in which process it ran.
MINE = """
import os
from data_gen.tools import api, tool

class Tool:
  def __init__(self, log, number=3):
    shape = api.CALLS["find"]
    self.spec = tool.Spec("find", "7", dict(shape.arguments), shape.result,
                          uses_pixels=True, batch_limit=4)
    self._log, self._number = log, number

  def run_batch(self, calls):
    with open(self._log, "a") as f:
      print(os.getpid(), len(calls), file=f)
    return [[[0, i, 9, i + 9] for i in range(self._number)] for _ in calls]
"""


def files(workdir):
  """All data of a workdir; what each run measures for itself is none."""
  paths = [p for p in sorted((workdir / "runs").rglob("*")) if p.is_file()]
  return {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in paths
    if p.parent.name != "measured"
  }


@pytest.fixture
def small(tmp_path):
  """The grammar's own programs for a few images, up to the stage `runs`."""
  return configs.tiny_world() | {
    "stages": ("questions", "programs", "runs"),
    "splits": {"train": {"num_images": 2, "num_shards": 2}},
  }


class TestEngineSection:
  @pytest.mark.parametrize(
    ("section", "message"),
    [
      (
        {"in_fligt": 8},
        r"config\.engine\.in_fligt is no option. Did you mean"
        r" 'config\.engine\.in_flight'",
      ),
      (
        {"processes": {"fnd": "gpu0"}},
        r"config\.engine\.processes\.fnd is no option. Did you mean .*find",
      ),
      ({"in_flight": 0}, r"config\.engine\.in_flight=0 must be from 1 to 512"),
      ({"in_flight": 513}, r"config\.engine\.in_flight=513 must be from 1"),
    ],
  )
  def test_a_mistake_is_named_before_anything_is_made(
    self, small, tmp_path, section, message
  ):
    with pytest.raises(ValueError, match=message):
      run.generate(small | {"engine": section}, tmp_path / "work")
    assert not (tmp_path / "work").exists()

  def test_how_the_machine_is_shared_decides_no_byte(self, small, tmp_path):
    cache = {"cache_dir": str(tmp_path / "cache")}
    sections = (
      {"in_flight": 1},
      {"in_flight": 64, "processes": {"find": "other"}},
      {"in_flight": 64, "batch_window_s": 0.0, **cache},
      {"in_flight": 3, **cache},
    )
    made, hits = [], []
    for i, section in enumerate(sections):
      workdir = tmp_path / f"work{i}"
      run.generate(small | {"engine": section}, workdir)
      made.append(files(workdir))
      measured = shard_files.read_measured(workdir / "runs")
      assert len(measured) == 2
      calls = [c for m in measured for c in m["tools"]["calls"].values()]
      hits.append(sum(c["disk_hits"] for c in calls))
      total = sum(c["calls"] for c in calls)
      parts = ("joined", "memory_hits", "disk_hits", "executed")
      assert total == sum(c[part] for c in calls for part in parts) > 0
      if i == 3:  # Every answer was kept.
        assert sum(c["executed"] for c in calls) == 0
    assert made[0] == made[1] == made[2] == made[3]
    assert len(made[0]) == 2 + 2 + 1  # Rows and records, and the stage's own.
    assert hits[:2] == [0, 0]
    assert hits[3] > 0

  def test_it_may_change_between_two_runs_of_a_workdir(self, small, tmp_path):
    run.generate(small | {"engine": {"in_flight": 2}}, tmp_path)
    before = files(tmp_path)
    run.generate(small | {"engine": {"in_flight": 9}}, tmp_path)
    assert files(tmp_path) == before


class TestOwnTools:
  @pytest.fixture
  def mine(self, config, tmp_path, monkeypatch):
    """The config with a module of one's own as its finder, and its log."""
    folder = tmp_path / "modules/my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "my_find.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(folder.parent))
    section = {"name": "my_package.my_find", "log": str(tmp_path / "log")}
    config["tools"] = config["tools"] | {"find": section}
    return config

  def runs(self, config, workdir):
    content = run.generate(config, workdir)["runs"]
    return content, rows(records.Run, workdir, "runs")

  def test_one_by_its_full_name_in_its_own_process(self, mine, tmp_path):
    results = []
    for processes in ({}, {"find": "gpu0"}):
      (tmp_path / "log").unlink(missing_ok=True)
      mine["engine"] = {"processes": processes}
      workdir = tmp_path / f"work{len(processes)}"
      content, found = self.runs(mine, workdir)
      results.append(found)
      assert content["decides"]["facts"]["tools"]["find"] == "7"
      lines = (tmp_path / "log").read_text().split("\n")[:-1]
      assert {int(line.split()[0]) for line in lines} - {os.getpid()}
      (measured,) = shard_files.read_measured(workdir / "runs")
      assert set(measured["tools"]["restarts"]) == {
        *("tools", *processes.values())
      }
    assert results[0] == results[1]
    assert {r.answer for r in found if not r.error_class} == {"3"}

  def test_its_options_are_checked_by_name(self, mine, tmp_path):
    mine["tools"]["find"]["numbr"] = 5
    with pytest.raises(
      ValueError,
      match=r"config\.tools\.find\.numbr .*'config.tools.find.number'",
    ):
      run.generate(mine, tmp_path / "work")
    del mine["tools"]["find"]["numbr"], mine["tools"]["find"]["log"]
    with pytest.raises(
      ValueError, match=r"config\.tools\.find lacks \['log'\]"
    ):
      run.generate(mine, tmp_path / "work")
    assert not (tmp_path / "work").exists()

  def test_an_option_decides_the_output(self, mine, tmp_path):
    _, three = self.runs(mine, tmp_path / "work")
    mine["tools"]["find"]["number"] = 5
    with pytest.raises(ValueError, match=r"config\.tools\.find\.number was"):
      self.runs(mine, tmp_path / "work")
    _, five = self.runs(mine, tmp_path / "other")
    assert {r.answer for r in three if r.answer} == {"3"}
    assert {r.answer for r in five if r.answer} == {"5"}

  def test_one_that_is_not_there_is_named(self, mine, tmp_path):
    mine["tools"]["find"]["name"] = "my_package.no_find"
    with pytest.raises(KeyError, match=r"no module 'my_package\.no_find'"):
      run.generate(mine, tmp_path / "work")


def mangle(path, cut):
  """Cuts bytes off the end of a file, or lines off the start."""
  data = path.read_bytes()
  lines = data.splitlines(keepends=True)
  path.write_bytes(data[:-cut] if cut > 0 else b"".join(lines[-cut:]))


@pytest.mark.parametrize(
  ("name", "cut"),
  [
    ("questions/train-00000-of-00001.images.tfrecord", 5),
    ("questions/train-00000-of-00001.images.tfrecord", 1000),
    ("questions/train-00000-of-00001.jsonl", 5),
    ("programs/train-00000-of-00001.jsonl", 5),
    ("programs/train-00000-of-00001.jsonl", -5),
  ],
)
def test_an_input_cut_short_is_named(config, tmp_path, name, cut):
  workdir = tmp_path / "work"
  run.generate(config | {"stages": ("questions", "programs")}, workdir)
  mangle(workdir / name, cut)
  (shard,) = shard_files.shards_of(config["splits"])
  folders = {n: workdir / n for n in ("questions", "programs")}
  out = shard_files.ShardOutput(tmp_path, shard)
  worker = execute.Worker(config)
  try:
    with pytest.raises(ValueError, match=name):
      worker.run(shard, folders, out)
  finally:
    worker.close()
    out.discard()


@pytest.mark.parametrize(
  "options",
  [
    {"in_flight": "64"},
    {"in_flight": 2.5},
    {"in_flight": 513},
    {"batch_window_s": "x"},
    {"batch_window_s": -1},
    {"cache_dir": 5},
    {"processes": {"find": 5}},
  ],
)
def test_an_engine_option_that_makes_no_sense_is_named(options):
  (name,) = options
  with pytest.raises(ValueError, match=rf"config\.engine\.{name}="):
    execute.EngineConfig(**options)
