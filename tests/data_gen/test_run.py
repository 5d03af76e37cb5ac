"""The whole of data_gen on a few images of the embedded world."""

import io
import json
import random
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

from data_gen import records, run, shard_files, stage
from tests import configs
from vpd_jax.input import schema, tfrecord

WORLD = configs.ROOT / "configs/data_gen/world.py"
# Written by each run for itself: not part of the data.
NOT_DATA = ("timings.json", ".lock", "config.json", "measured")
SPLITS = {
  "train": {"num_images": 3, "num_shards": 3},
  "test_iid": {"num_images": 1, "num_shards": 1},
}


def get_config(path="data_gen/world.py", arg="size=tiny", **changes):
  return configs.load(path, arg).to_dict() | {"splits": SPLITS} | changes


def files(workdir):
  return {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in sorted(workdir.rglob("*"))
    if p.is_file() and not {p.name, p.parent.name} & set(NOT_DATA)
  }


def rows(cls, workdir, name):
  paths = sorted((workdir / name).glob("*.jsonl"))
  return [row for path in paths for row in shard_files.read_rows(cls, path)]


def examples(workdir):
  found = []
  for path in sorted((workdir / "examples").glob("*.tfrecord-*")):
    with path.open("rb") as file:
      found += map(schema.parse, tfrecord.read_frames(file, str(path)))
  return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A finished workdir of the tiny world, made in this process."""
  workdir = tmp_path_factory.mktemp("made")
  run.generate(get_config(num_workers=1), workdir)
  return workdir


def test_each_stage_has_a_row_for_each_of_the_one_before(made):
  questions = rows(records.Question, made, "questions")
  ids = [q.question_id for q in questions]
  assert len(set(ids)) == len(ids) == 16
  for name, cls in (("programs", records.Program), ("runs", records.Run)):
    keys = [(r.question_id, r.index) for r in rows(cls, made, name)]
    assert keys == [(i, k) for i in ids for k in range(5)]
  for name, cls in (
    ("choices", records.Choice),
    ("rationales", records.Rationale),
  ):
    assert [r.question_id for r in rows(cls, made, name)] == ids


def test_an_example_holds_what_the_stages_say(made):
  by_id = {e["example_id"]: e for e in examples(made)}
  questions = rows(records.Question, made, "questions")
  rationales = rows(records.Rationale, made, "rationales")
  assert len(by_id) == len(questions)
  for question, rationale in zip(questions, rationales):
    example = by_id[question.question_id]
    assert example["question"] == question.question
    assert example["answer"] == question.answers[0]
    assert example["answer_source"] == "human"
    assert example["rationale"] == rationale.text
    assert bool(example["program"]) == bool(rationale.text)
    assert example["source"] == "world"
    with PIL.Image.open(io.BytesIO(example["image"])) as image:
      assert image.size == (48, 48)


def test_most_rationales_are_the_true_ones(made):
  kept = [e for e in examples(made) if e["rationale"]]
  exact = [e for e in kept if e["rationale"] == e["reference_rationale"]]
  assert len(kept) >= 12
  assert len(exact) >= 0.6 * len(kept)


def test_the_manifest_adds_up(made):
  manifest = json.loads((made / "examples/manifest.json").read_text())
  for name, split in manifest["splits"].items():
    for y in split["yields"].values():
      assert y["total"] == y["good"] + sum(y["reasons"].values())
    yields = split["yields"]
    assert yields["programs"]["total"] == 5 * yields["questions"]["good"]
    assert yields["runs"]["total"] == yields["programs"]["total"]
    assert yields["rationales"]["good"] == split["with_rationale"]
    assert yields["examples"]["good"] == split["examples"]
    assert sum(split["families"].values()) == split["examples"]
    assert len(split["shards"]) == SPLITS[name]["num_shards"]
  assert manifest["sandbox"]
  assert manifest["schema_version"] == schema.VERSION


def test_the_card_names_every_field_and_split(made):
  card = (made / "examples/README.md").read_text()
  for name in [f.name for f in schema.FIELDS] + list(SPLITS):
    assert f"| {name} |" in card


def test_more_workers_give_the_same_bytes(made, tmp_path):
  """Two do too: those that are killed below."""
  run.generate(get_config(num_workers=3), tmp_path)
  assert files(tmp_path) == files(made)


def test_a_second_run_changes_nothing(made):
  before = {p: p.stat().st_mtime_ns for p in made.rglob("*.json*")}
  del before[made / "config.json"], before[made / "timings.json"]
  run.generate(get_config(), made)
  assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("num_records", [9, 20])
def test_killed_and_run_again_equals_unbroken(made, tmp_path, num_records):
  """Killed at a random moment after that many finished shards."""
  config_file = tmp_path / "config.json"
  config_file.write_text(json.dumps(get_config(num_workers=2)))
  entry = tmp_path / "entry.py"
  entry.write_text(
    "import json, sys\n"
    "from data_gen import run\n"
    "if __name__ == '__main__':\n"
    "  run.generate(json.load(open(sys.argv[1])), sys.argv[2])\n"
  )
  workdir = tmp_path / "work"
  process = subprocess.Popen(
    [sys.executable, entry, config_file, workdir],
    cwd=configs.ROOT,
    env={"PYTHONPATH": str(configs.ROOT), "PATH": "/usr/bin:/bin"},
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 60
  while len(list(workdir.glob("*/shards/*.json"))) < num_records:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.005)
  time.sleep(random.Random(num_records).uniform(0, 0.2))
  process.send_signal(signal.SIGKILL)
  process.wait()
  run.generate(get_config(num_workers=2), workdir)
  assert files(workdir) == files(made)


@pytest.mark.parametrize(
  "variant", ["unfiltered", "k1", "clean", "pseudo", "mismatched"]
)
def test_a_variant_takes_the_runs_of_another_workdir(made, tmp_path, variant):
  before = files(made)
  config = get_config(arg=f"size=tiny,variant={variant}", reuse=str(made))
  run.generate(config, tmp_path)
  assert files(made) == before
  assert (tmp_path / "runs").resolve() == (made / "runs").resolve()
  base = {e["example_id"]: e for e in examples(made)}
  found = {e["example_id"]: e for e in examples(tmp_path)}
  assert set(found) <= set(base)
  for key, example in found.items():
    if variant == "clean":
      assert example["rationale"] == example["reference_rationale"]
    elif variant == "mismatched":
      assert bool(example["rationale"]) <= bool(base[key]["rationale"])
      assert not example["program"]
    elif variant == "pseudo" and "train" in key:
      assert example["answer_source"] == "program"
    elif variant == "unfiltered":
      assert example["rationale"] or not base[key]["rationale"]
  if variant == "k1":
    kept = {c.kept for c in rows(records.Choice, tmp_path, "choices")}
    assert kept <= {0, None}


def test_mismatched_rationales_are_of_other_images(tmp_path):
  options = {
    "splits": {"train": {"num_images": 6, "num_shards": 1}},
    "num_workers": 1,
  }
  run.generate(get_config(**options), tmp_path / "base")
  run.generate(
    get_config(
      arg="size=tiny,variant=mismatched",
      reuse=str(tmp_path / "base"),
      **options,
    ),
    tmp_path / "mismatched",
  )
  base = {e["example_id"]: e for e in examples(tmp_path / "base")}
  images = {}
  for e in base.values():
    key = e["family"], e["rationale"]
    images.setdefault(key, set()).add(e["image_id"])
  found = [e for e in examples(tmp_path / "mismatched") if e["rationale"]]
  assert len(found) >= 12
  for e in found:
    assert e["rationale"] != base[e["example_id"]]["rationale"]
    assert images[e["family"], e["rationale"]] - {e["image_id"]}


def test_reuse_refuses_other_runs(made, tmp_path):
  config = get_config(reuse=str(made), seed=1)
  with pytest.raises(ValueError, match=r"config\.seed was 0 there and is 1"):
    run.generate(config, tmp_path)
  config = get_config(reuse=str(tmp_path / "nothing"))
  with pytest.raises(ValueError, match="no finished stage"):
    run.generate(config, tmp_path / "new")


def test_an_interrupted_stage_leaves_its_seconds(tmp_path, monkeypatch):
  def interrupted(*args, **kwargs):
    time.sleep(0.02)
    raise KeyboardInterrupt

  monkeypatch.setattr(stage, "run", interrupted)
  for total in (0.02, 0.04):
    with pytest.raises(KeyboardInterrupt):
      run.generate(get_config(num_workers=1), tmp_path)
    seconds = json.loads((tmp_path / "timings.json").read_text())
    assert seconds["questions"] >= total


def test_the_large_world(tmp_path):
  sizes = [
    f"--config.splits.{split}.{key}={value}"
    for split in ("train", "validation", "test_iid", "test_phrase")
    for key, value in (("num_images", 4), ("num_shards", 1))
  ]
  sizes += [
    "--config.splits.test_relation.num_images=4",
    "--config.splits.test_relation.num_shards=1",
  ]
  workdir = f"--workdir={tmp_path}"
  config, _ = run._parse(["run", f"--config={WORLD}:size=large", workdir])
  train = config["splits"]["train"]
  questions = train["num_images"] * config["source"]["questions_per_image"]
  assert (questions, train["num_shards"]) == (10**6, 512)
  config, _ = run._parse(
    ["run", f"--config={WORLD}:size=large", workdir, *sizes]
  )
  run.generate(config | {"num_workers": 1}, tmp_path)
  found = examples(tmp_path)
  kept = [e["rationale"] for e in found if e["rationale"]]
  assert len(found) == 80
  assert len(kept) >= 50
  assert all("o the answer is " in text for text in kept)
  words = " ".join(e["question"] for e in found)
  assert "sign" in words and "purple" in words and "star" in words
  with PIL.Image.open(io.BytesIO(found[0]["image"])) as image:
    assert image.size == (128, 128)


def test_the_base_tasks(tmp_path):
  splits = {"train": SPLITS["train"]}
  config = get_config("data_gen/world_base.py", splits=splits)
  contents = run.generate(config, tmp_path)
  found = examples(tmp_path)
  assert len(found) == 15 == stage.tally(contents["examples"])[""]
  assert {e["family"] for e in found} == {"find", "at", "exist"}
  assert all(e["answer"] and not e["rationale"] for e in found)


class TestOwnImages:
  """The source `jsonl` through the stage `questions`."""

  @pytest.fixture
  def folder(self, tmp_path):
    for name, color in (("a.jpg", "red"), ("b.png", "blue")):
      PIL.Image.new("RGB", (40, 30), color).save(tmp_path / name)
    self.write(
      tmp_path,
      {"image": "a.jpg", "question": "What color?", "answers": ["red"]},
      {"image": "b.png", "question": "What color?"},
      {"image": "a.jpg", "question": "Which way?", "split": "validation"},
      {"image": "a.jpg", "question": "what color", "answers": ["red"]},
    )
    return tmp_path

  def write(self, folder, *lines):
    text = "\n".join(
      line if isinstance(line, str) else json.dumps(line) for line in lines
    )
    (folder / "q.jsonl").write_text(text + "\n")

  def generate(self, folder, on_bad_image="error", **options):
    config = {
      "name": "mine",
      "seed": 0,
      "stages": ("questions",),
      "splits": {"train": {"num_shards": 1}},
      "source": {"name": "jsonl", "path": str(folder / "q.jsonl")},
      "questions": {"on_bad_image": on_bad_image},
      "max_drop_share": {"questions": 0.9},
    }
    config["source"] |= options
    return run.generate(config, folder / "work")

  def test_reads_questions_and_each_image_once(self, folder):
    content = self.generate(folder)["questions"]
    assert stage.tally(content) == {"": 2, "duplicate_question": 1}
    found = rows(records.Question, folder / "work", "questions")
    assert [(q.question_id, q.image_id, q.answers) for q in found] == [
      ("q-0000001", "a.jpg", ("red",)),
      ("q-0000002", "b.png", ()),
    ]
    images = shard_files.Images(
      folder / "work/questions/train-00000-of-00001.images.tfrecord"
    )
    assert images["a.jpg"] == (folder / "a.jpg").read_bytes()
    assert images["b.png"] == (folder / "b.png").read_bytes()
    with pytest.raises(ValueError, match="has no image 'c'"):
      images["c"]
    images.close()

  def test_a_truncated_image_is_named(self, folder):
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
      ValueError,
      match=r"image 'a\.jpg' of question 'q-0000001': it cannot be decoded: .*[Tt]runcated",
    ):
      self.generate(folder)

  @pytest.mark.parametrize(
    "content, message",
    [
      (None, "no such file, or it is empty"),
      (b"", "no such file, or it is empty"),
      (b"GIF89a", "are no JPEG or PNG image"),
      (b"text", "4 bytes are no JPEG or PNG image"),
    ],
  )
  def test_a_bad_image_is_an_error_or_dropped_and_counted(
    self, folder, content, message
  ):
    (folder / "a.jpg").unlink()
    if content is not None:
      (folder / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=f"'a.jpg'.*{message}"):
      self.generate(folder)
    content = self.generate(folder, on_bad_image="drop")["questions"]
    assert stage.tally(content) == {"": 1, "bad_image": 2}

  @pytest.mark.parametrize(
    "line, message",
    [
      ("{", "line 2: Expecting property name"),
      ("[]", r"line 2: expected an object with"),
      ('{"image": "a.jpg"}', "line 2: 'question' must be a text, got None"),
      (
        '{"image": "a.jpg", "question": "q", "answer": "x"}',
        "line 2: answer is no option. Did you mean 'answers'",
      ),
      (
        '{"image": "a.jpg", "question": "q", "answers": "x"}',
        "line 2: 'answers' must be a list of texts, got 'x'",
      ),
      (
        '{"image": "a.jpg", "question": "q", "regions": [[1, 2, 3]]}',
        "line 2: 'regions' holds",
      ),
      (
        '{"image": "a.jpg", "question": "q", "regions": 5}',
        "line 2: 'regions' must be a list of boxes: 5",
      ),
      (
        '{"image": "a.jpg", "question": "q", "id": "x"}',
        "line 2: id 'x' is that of line 1 too",
      ),
    ],
  )
  def test_a_malformed_line_names_file_and_line(self, folder, line, message):
    self.write(folder, {"image": "a.jpg", "question": "q?", "id": "x"}, line)
    with pytest.raises(ValueError, match=rf"q\.jsonl, {message}"):
      self.generate(folder)

  def test_bytes_that_are_no_utf8_name_file_and_line(self, folder):
    path = folder / "q.jsonl"
    path.write_bytes(path.read_bytes() + b'{"image": "caf\xe9.jpg"}\n')
    with pytest.raises(ValueError, match=r"q\.jsonl, line 5: .*utf-8") as e:
      self.generate(folder)
    assert "\n" not in str(e.value)

  def test_a_missing_file_and_an_empty_split_are_named(self, folder):
    with pytest.raises(ValueError, match="no line of the split 'train'"):
      self.generate(folder, default_split="test")
    (folder / "q.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"q\.jsonl' does not exist"):
      self.generate(folder)
