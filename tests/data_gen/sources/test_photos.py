"""The photos source: our questions, a user's own folder, and bad input."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_gen.sources import photos

KEYS = {"shard": 0, "num_shards": 1, "seed": 0}


def png(color=(200, 30, 30)):
  buffer = io.BytesIO()
  Image.fromarray(np.full((20, 30, 3), color, np.uint8)).save(buffer, "PNG")
  return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
  """A user's folder: two pictures, three questions."""
  (tmp_path / "a.png").write_bytes(png())
  (tmp_path / "b.png").write_bytes(png((30, 30, 200)))
  write(
    tmp_path,
    line("a.png", "What color is it?", ["red"]),
    line("a.png", "Is it blue?", ["no"], family="yesno"),
    line("b.png", "What color is it?", []),
  )
  return tmp_path


def line(image, question, answers, split="train", **more):
  return json.dumps(
    {"image": image, "split": split, "question": question, "answers": answers}
    | more
  )


def write(folder, *lines):
  (folder / "q.jsonl").write_text("\n".join(lines) + "\n")


def read(folder, split="train", **keys):
  return list(
    photos.read(
      split=split,
      questions_file=str(folder / "q.jsonl"),
      image_dir=str(folder),
      **KEYS | keys,
    )
  )


def test_own_pictures(folder):
  questions = read(folder)
  assert [q.question_id for q in questions] == [
    "photos-train-a.png-0",
    "photos-train-a.png-1",
    "photos-train-b.png-0",
  ]
  assert questions[0].image == png()
  assert questions[0].answers == ("red",)
  assert questions[1].family == "yesno"
  assert questions[2].answers == ()


def test_shards_are_whole_pictures_and_add_up(folder):
  shards = [read(folder, shard=i, num_shards=2) for i in range(2)]
  assert [len(s) for s in shards] == [2, 1]
  assert shards[0] + shards[1] == read(folder)


def test_missing_picture_is_named(folder):
  (folder / "b.png").unlink()
  with pytest.raises(FileNotFoundError, match=r"no picture .*b\.png"):
    read(folder)


def test_truncated_picture_is_named(folder):
  (folder / "b.png").write_bytes(png((1, 2, 3))[:60])
  with pytest.raises(ValueError, match=r"b\.png is not a whole JPEG or PNG"):
    read(folder)


def test_truncated_jpeg_is_named(folder):
  buffer = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(buffer, "JPEG")
  (folder / "b.png").write_bytes(buffer.getvalue()[:-400])
  with pytest.raises(ValueError, match=r"b\.png is not a whole JPEG or PNG"):
    read(folder)


def test_other_formats_are_refused(folder):
  Image.new("RGB", (4, 4)).save(folder / "b.png", "GIF")
  with pytest.raises(ValueError, match="is a GIF file"):
    read(folder)


@pytest.mark.parametrize(
  "bad, match",
  [
    ("{", r"q\.jsonl, line 2: not a line of JSON"),
    ("[]", r"line 2: expected an object"),
    ('{"image": "a.png"}', r"line 2: .*missing"),
    (line("a.png", "", []), r'line 2: question="" must be a text'),
    (line("a.png", "Q?", "red"), r'line 2: answers="red" must be a list'),
    (line("a.png", "Q?", [], hint=1), r"line 2: .*no fields \['hint'\]"),
  ],
)
def test_malformed_line_is_named(folder, bad, match):
  write(folder, line("a.png", "Q?", []), bad)
  with pytest.raises(ValueError, match=match):
    read(folder)


def test_scattered_pictures_are_refused(folder):
  rows = [line(n, "Q?", []) for n in ("a.png", "b.png", "a.png")]
  write(folder, *rows)
  with pytest.raises(ValueError, match=r"line 3: .*do not stand together"):
    read(folder)


def test_unknown_split_lists_the_splits(folder):
  with pytest.raises(ValueError, match=r"no lines of split 'test'.*'train'"):
    read(folder, split="test")


def test_missing_questions_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="no questions file"):
    read(tmp_path)


def test_our_questions_have_their_pictures():
  pytest.importorskip("skimage", reason="scikit-image: extra [tools]")
  questions = [
    q for s in ("train", "test_photos") for q in photos.read(split=s, **KEYS)
  ]
  assert len(questions) >= 40
  assert len({q.question_id for q in questions}) == len(questions)
  assert all(q.answers and q.image for q in questions)
  train, test = (
    {q.image_id for q in questions if (q.split == "train") is is_train}
    for is_train in (True, False)
  )
  assert not train & test
