"""A small made-up workdir and training runs, in the real file formats."""

import io
import json
import pathlib

import pytest
from PIL import Image, ImageDraw

from data_gen.records import (
  Choice,
  Program,
  Question,
  Rationale,
  Run,
  to_json,
)
from data_gen.trace.events import OUTPUT, PRINT, Event
from vpd_jax.input import tfrecord

FAMILIES = ("attr", "count", "cmp")
NUM_PROGRAMS = 3
ANCHOR = (62, 62, 271, 271)
TARGET = (396, 687, 604, 895)


def question(index, split):
  """Question `index`: its answer cycles with the index, three an image."""
  family = FAMILIES[index % 3]
  answer = {"attr": "red", "count": str(index % 2), "cmp": "yes"}[family]
  return Question(
    question_id=f"{split}-q{index}",
    image_id=f"{split}-im{index // 3}",
    question=f"What about the {family} <b>thing</b> & its {index % 2} friend?",
    answers=(answer,),
    split=split,
    family=family,
    objects=(ANCHOR, TARGET),
    reference_rationale=f"62 62 271 271 ; 396 687 604 895 ; {answer}",
  )


def jpeg(index):
  image = Image.new("RGB", (48, 48), (235, 232, 225))
  draw = ImageDraw.Draw(image)
  draw.rectangle((3, 3, 12, 12), fill=(40, 60, 200))
  draw.ellipse((33, 19, 42, 28), fill=(200, 40 + index % 100, 40))
  file = io.BytesIO()
  image.save(file, "JPEG", quality=90)
  return file.getvalue()


def events(answer):
  anchor, target = "62 62 271 271", "396 687 604 895"
  whole = (0, 0, 999, 999)
  found = [list(ANCHOR), list(TARGET)]
  return (
    Event(
      0,
      3,
      "find",
      whole,
      {"object_name": "square"},
      found,
      f"find('square') -> 2 found: {anchor} and {target}",
    ),
    Event(1, 4, PRINT, None, {}, f"anchor {anchor}", f"printed: {anchor}"),
    Event(2, 5, OUTPUT, None, {}, answer, f"formatting_answer -> {answer}"),
  )


def run(row, index, right_at):
  """Program 1 never ends well; others are right from `right_at` on."""
  answer = row.answers[0] if index >= right_at else "blue"
  if index == 1:
    message = "IndexError: list index out of range (line 4)"
    steps = events("")[:1]
    return Run(row.question_id, index, "error", "index", message, None, steps)
  return Run(row.question_id, index, "ok", "", "", answer, events(answer))


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(to_json(row) + "\n" for row in rows))


def make_workdir(folder: pathlib.Path, num_questions=12) -> pathlib.Path:
  """Every third question has its first right program at 0, at 2, or never."""
  for split in ("train", "test_iid"):
    for shard in range(2):
      name = f"{split}-{shard:05}-of-00002"
      ids = range(num_questions * shard // 2, num_questions * (shard + 1) // 2)
      questions = [question(i, split) for i in ids]
      programs, runs, choices, rationales = [], [], [], []
      for i, row in zip(ids, questions):
        right_at = (0, 2, 9)[i // 3 % 3]
        of_question = [run(row, k, right_at) for k in range(NUM_PROGRAMS)]
        runs += of_question
        programs += [
          Program(
            row.question_id,
            k,
            "def execute_command(image):\n  # <script>alert(1)</script>\n"
            f"  return 'try {k}'",
            -0.5 * k,
            "grammar",
            "vpd_v1",
          )
          for k in range(NUM_PROGRAMS)
        ]
        kept = right_at if right_at < NUM_PROGRAMS else None
        decisions = tuple(
          "index"
          if r.status != "ok"
          else "kept"
          if r.index == kept
          else "right"
          if r.answer == row.answers[0]
          else "wrong_answer"
          for r in of_question
        )
        reason = "" if kept is not None else "no_right_program"
        choices.append(
          Choice(
            row.question_id, kept, reason, decisions, row.answers[0], "human"
          )
        )
        rationales.append(
          Rationale(
            row.question_id,
            row.reference_rationale if kept is not None else "",
            reason,
            "short",
            kept,
          )
        )
      write_lines(folder / "questions" / f"{name}.jsonl", questions)
      write_lines(folder / "programs" / f"{name}.jsonl", programs)
      write_lines(folder / "runs" / f"{name}.jsonl", runs)
      write_lines(folder / "choices" / f"{name}.jsonl", choices)
      write_lines(folder / "rationales" / f"{name}.jsonl", rationales)
      with (folder / "questions" / f"{name}.images.tfrecord").open("wb") as f:
        for image_id in sorted({row.image_id for row in questions}):
          number = int(image_id.rpartition("im")[2])
          payload = tfrecord.encode_example(
            {
              "image_id": [image_id.encode()],
              "image": [jpeg(number)],
            }
          )
          f.write(tfrecord.frame(payload))
  (folder / "config.json").write_text(
    json.dumps({"config": {"name": "world", "num_workers": 2, "reuse": ""}})
  )
  (folder / "timings.json").write_text(json.dumps({"programs": 1, "runs": 5}))
  (folder / "tool_accuracy.json").write_text(
    json.dumps({"find": {"recall": 0.991, "mean_iou": 0.97}, "color": 0.985})
  )
  return folder


def make_run(
  folder, name, right, with_rationale, num_questions=12, seed=0, base="base0"
):
  """One training run; `right(i)` says if its direct answer i is right."""
  path = folder / name
  path.mkdir(parents=True)
  lines = []
  for i in range(num_questions):
    row = question(i, "test_iid")
    answer = row.answers[0]
    lines.append(
      {
        "example_id": row.question_id,
        "image_id": row.image_id,
        "family": row.family,
        "question": row.question,
        "answers": list(row.answers),
        "direct": answer if right(i) else "blue",
        "direct_is_correct": bool(right(i)),
        "rationale": row.reference_rationale if with_rationale else None,
        "rationale_answer": answer if with_rationale else None,
        "rationale_is_correct": True if with_rationale else None,
      }
    )
  (path / "predictions-test_iid.jsonl").write_text(
    "".join(json.dumps(line) + "\n" for line in lines)
  )
  (path / "metrics.jsonl").write_text(
    "".join(
      json.dumps(
        {
          "step": step,
          "loss": 3.0,
          "loss_label": 2.0 / (1 + step / 200),
          **(
            {"loss_rationale": 3.0 / (1 + step / 300)} if with_rationale else {}
          ),
          "seconds": step / 20,
        }
      )
      + "\n"
      for step in range(0, 2401, 20)
    )
  )
  (path / "evaluation.json").write_text(
    json.dumps(
      {
        "arm": name,
        "seed": seed,
        "init": f"weights/{base}.npz",
        "init_sha256": base,
        "steps": 2400,
        "best_step": 2100,
        "best_value": 0.8,
        "train_seconds": 60.0,
        "train_flops": 1.5e13,
        "cores": 1,
        "splits": {
          "test_iid": {
            "direct_accuracy": 0.5,
            "num_questions": num_questions,
            "direct_seconds_per_question": 0.001 * (1 + seed),
            **(
              {
                "rationale_accuracy": 1.0,
                "rationale_seconds_per_question": 0.004,
              }
              if with_rationale
              else {}
            ),
          }
        },
      }
    )
  )


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory):
  """The twin is right on even questions, VPD on all but question 0."""
  folder = tmp_path_factory.mktemp("runs")
  make_run(folder, "twin", lambda i: i % 2 == 0, False)
  make_run(folder, "twin_equal_compute", lambda i: i % 4 < 3, False)
  make_run(folder, "vpd", lambda i: i != 0, True)
  return folder


@pytest.fixture
def make():
  """The two writers above, for tests that need other folders."""
  return make_workdir, make_run
