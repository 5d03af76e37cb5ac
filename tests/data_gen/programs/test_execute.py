"""The stages `programs` and `runs` with a writer that repeats itself."""

import importlib.util
import json
import pathlib

import pytest

from data_gen import records, run, shard_files
from data_gen.sandbox import executor

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
