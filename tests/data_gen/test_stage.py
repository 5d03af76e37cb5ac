"""Stages are played by small modules that each test writes to disk."""

import json
import os
import pathlib
import sys
import textwrap

import pytest

from data_gen import progress, shard_files, stage, workers
from data_gen.records import Choice, Question
from vpd_jax import config_check

SPLITS = {"train": {"num_shards": 3}, "test": {"num_shards": 1}}
SHARDS = shard_files.shards_of(SPLITS)


@pytest.fixture
def write_stage(tmp_path, monkeypatch):
  """Writes a module whose Worker runs `body`; returns its plan."""
  folder = tmp_path / "modules"
  folder.mkdir()
  monkeypatch.syspath_prepend(str(folder))

  def write(name: str, body: str, digest: str = "d0") -> stage.Plan:
    source = f"""
import os, pathlib
from data_gen.records import Choice

class Worker:
  def __init__(self, config):
    self.config = config
  def run(self, shard, folders, out):
{textwrap.indent(textwrap.dedent(body), "    ")}
  def close(self):
    pass
"""
    (folder / f"{name}.py").write_text(source)
    sys.modules.pop(name, None)
    declaration = stage.Stage(name, name, (), ())
    return stage.Plan(declaration, (), {"config": {"seed": digest}}, digest)

  return write


WRITES = """
for i in range(4):
  out.write_row(Choice(f"{shard}/{i}", None, "", (), "", ""))
  out.tally("f", "" if i else "odd")
"""


def run(plan, workdir, num_workers=1, **config):
  config = {"splits": SPLITS, **config}
  folders = {plan.stage.name: workdir / plan.stage.name}
  with workers.Pool(config, num_workers) as pool:
    return stage.run(plan, config, folders, pool)


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(folder.rglob("*"))
    if p.is_file()
  }


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_any_number_of_workers_gives_the_same_bytes(
  write_stage, tmp_path, num_workers
):
  plan = write_stage("stage_a", WRITES)
  content = run(plan, tmp_path / "many", num_workers)
  run(plan, tmp_path / "one")
  assert files(tmp_path / "many") == files(tmp_path / "one")
  assert stage.tally(content) == {"": 12, "odd": 4}
  assert stage.tally(content, "test") == {"": 3, "odd": 1}
  rows = list(
    shard_files.read_rows(
      Choice, tmp_path / "many/stage_a/train-00002-of-00003.jsonl"
    )
  )
  assert [r.question_id for r in rows] == [
    f"train-00002-of-00003/{i}" for i in range(4)
  ]


def test_finished_shards_are_not_made_again(write_stage, tmp_path):
  plan = write_stage("stage_a", WRITES)
  run(plan, tmp_path)
  folder = tmp_path / "stage_a"
  whole = files(folder)
  kept = folder / "train-00000-of-00003.jsonl"
  kept_inode = kept.stat().st_ino
  (folder / "shards/train-00001-of-00003.json").unlink()
  (folder / "train-00002-of-00003.jsonl").write_text("cut short")
  (folder / ".train-00001-of-00003.jsonl.tmp-1").write_text("half")
  run(plan, tmp_path)
  assert files(folder) == whole
  assert kept.stat().st_ino == kept_inode


def test_a_finished_stage_runs_nothing(write_stage, tmp_path):
  run(write_stage("stage_a", WRITES), tmp_path)
  run(write_stage("stage_a", "raise AssertionError('ran')"), tmp_path)


def test_another_config_is_refused_by_name(write_stage, tmp_path):
  run(write_stage("stage_a", WRITES), tmp_path)
  plan = write_stage("stage_a", WRITES, digest="d1")
  with pytest.raises(
    ValueError, match=r"config\.seed was 'd0' there and is 'd1"
  ):
    run(plan, tmp_path)
  assert stage.read(tmp_path / "stage_a")["digest"] == "d0"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_fault_keeps_finished_shards_and_names_the_cause(
  write_stage, tmp_path, num_workers
):
  body = "if shard.split == 'test': raise ValueError('line 7 is bad')\n"
  plan = write_stage("stage_a", body + textwrap.dedent(WRITES))
  with pytest.raises(ValueError, match="line 7 is bad"):
    run(plan, tmp_path, num_workers)
  folder = tmp_path / "stage_a"
  assert len(list((folder / "shards").iterdir())) >= 2
  with pytest.raises(ValueError, match="no finished stage"):
    stage.read(folder)
  content = run(write_stage("stage_a", WRITES), tmp_path, num_workers)
  assert len(content["shards"]) == 4


def test_a_worker_that_dies_is_reported(write_stage, tmp_path):
  body = "if shard.index == 1: os._exit(9)\n" + textwrap.dedent(WRITES)
  plan = write_stage("stage_a", body)
  with pytest.raises(
    RuntimeError, match=r"shard train-00001-of-00003 died \(exit code 9\)"
  ):
    run(plan, tmp_path, 2)
  content = run(write_stage("stage_a", WRITES), tmp_path, 2)
  assert content["is_complete"]


def test_an_error_that_cannot_travel_arrives_as_text(write_stage, tmp_path):
  body = """
  class Odd(Exception):
    def __init__(self, a, b):
      super().__init__(f"{a} and {b}")
  raise Odd(1, 2)
  """
  with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
    run(write_stage("stage_a", body), tmp_path, 2)


def test_too_large_a_drop_share_stops_with_the_reasons(write_stage, tmp_path):
  plan = write_stage("stage_a", WRITES)
  with pytest.raises(
    ValueError, match=r"4 of 16 rows have no result \(25%, allowed 20%\): odd 4"
  ):
    run(plan, tmp_path, max_drop_share={"stage_a": 0.2})
  assert run(plan, tmp_path, max_drop_share={"stage_a": 0.25})["is_complete"]


def test_a_failed_shard_leaves_no_file(write_stage, tmp_path):
  plan = write_stage("stage_a", WRITES + "\nraise ValueError('late')")
  with pytest.raises(ValueError, match="late"):
    run(plan, tmp_path)
  assert list((tmp_path / "stage_a").glob("*.jsonl")) == []
  assert list((tmp_path / "stage_a").glob(".*")) == []


def test_a_malformed_row_names_file_and_line(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text('{"question_id": "a"}\n')
  with pytest.raises(
    ValueError, match=r"x\.jsonl, line 1: Question: .*missing"
  ):
    list(shard_files.read_rows(Question, path))
  path.write_text("{")
  with pytest.raises(ValueError, match=r"x\.jsonl, line 1: not a line of JSON"):
    list(shard_files.read_rows(Question, path))


def test_shard_names():
  assert [str(s) for s in SHARDS] == [
    "train-00000-of-00003",
    "train-00001-of-00003",
    "train-00002-of-00003",
    "test-00000-of-00001",
  ]


class TestPlan:
  CONFIG = {
    "name": "w",
    "seed": 0,
    "stages": ("questions", "examples"),
    "splits": {"train": {"num_images": 1, "num_shards": 1}},
    "source": {"name": "world_base", "tasks": {"caption": 1}},
  }

  def test_order_is_the_stages_not_the_configs(self):
    config = self.CONFIG | {"stages": ("examples", "questions")}
    assert [p.stage.name for p in stage.plan(config)] == [
      "questions",
      "examples",
    ]

  def test_a_change_reaches_later_stages_only(self):
    before = stage.plan(self.CONFIG)
    after = stage.plan(self.CONFIG | {"writer": {"rationales": "none"}})
    assert before[0].digest == after[0].digest
    assert before[1].digest != after[1].digest
    after = stage.plan(self.CONFIG | {"seed": 1})
    assert before[0].digest != after[0].digest
    assert before[1].digest != after[1].digest

  @pytest.mark.parametrize(
    "changes, message",
    [
      ({"stages": ("question",)}, "no stages .'question'.; it has"),
      ({"stages": ("examples",)}, "'examples' but not .'questions'."),
      (
        {"stages": ("questions", "programs")},
        "lacks the sections .'llm'., which the stage 'programs' needs",
      ),
      (
        {"source": {"name": "world_base", "tasks": {}, "task": {}}},
        r"config\.source\.task is no option\. Did you mean .config\.source\.tasks",
      ),
      (
        {"writer": {"rationale": "none"}},
        r"config\.writer\.rationale is no option\. Did you mean",
      ),
      ({"writer": {"rationales": "no"}}, "rationales='no' is not one of"),
      ({"questions": {"on_bad_image": "skip"}}, "neither 'error' nor 'drop'"),
      (
        {"splits": {"train": {"num_images": 1, "num_shards": 0}}},
        r"config\.splits\.train\.num_shards=0 must be 1 or more",
      ),
      (
        {"splits": {"train": {"num_shards": 1}}},
        r"config\.source lacks \['num_images'\]",
      ),
    ],
  )
  def test_a_bad_config_is_refused_before_anything_runs(self, changes, message):
    with pytest.raises(ValueError, match=message):
      stage.plan(self.CONFIG | changes)


def test_check_keywords_allows_what_takes_anything():
  config_check.check_keywords(lambda **k: None, {"x": 1}, "section")
  with pytest.raises(ValueError, match=r"config\.section\.x is no option"):
    config_check.check_keywords(lambda y=0: None, {"x": 1}, "section")


def test_progress_line():
  bar = progress.Progress("runs", 200, 4, open(os.devnull, "w"))
  bar.add(rows=50)
  assert bar.line(10.0) == (
    "runs        [#####...............] 50/200 rows  5/s  eta 0:30"
  )
  bar = progress.Progress("questions", None, 4, open(os.devnull, "w"))
  bar.add(rows=50, shards=1)
  assert bar.line(100.0) == (
    "questions   [#####...............] 50 rows, 1/4 shards  0/s  eta 5:00"
  )


def test_json_files_are_written_whole_or_not(tmp_path):
  path = tmp_path / "a" / "x.json"
  shard_files.write_json(path, {"b": 1, "a": 2})
  assert json.loads(path.read_text()) == {"a": 2, "b": 1}
  with pytest.raises(TypeError):
    shard_files.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 2, "b": 1}
  assert [p.name for p in path.parent.iterdir()] == ["x.json"]
