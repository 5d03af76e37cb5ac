"""Reads questions about photographs in a folder from a JSONL file.

Without arguments of its own, it reads our hand-written questions about the
photographs that the installed scikit-image package carries. Your own pictures:

    config.source = dict(name="photos", questions_file="my/questions.jsonl",
                         image_dir="my/pictures")

One line is one question:

    {"image": "coins.png", "split": "train", "question": "How many coins are
     there?", "answers": ["24"], "family": "count"}

`answers` may be empty, `family` left out. Lines about one picture stand
together.
"""

import dataclasses
import importlib.util
import io
import itertools
import json
import pathlib
from collections.abc import Iterator

from PIL import Image

from data_gen import records

_QUESTIONS_FILE = "data/photos_questions.jsonl"


@dataclasses.dataclass(frozen=True)
class _Line:
  """One line of the file; the fields are the file's."""

  image: str
  split: str
  question: str
  answers: tuple[str, ...] = ()
  family: str = ""


def read(
  *,
  split: str,
  shard: int,
  num_shards: int,
  seed: int,
  questions_file: str = "",
  image_dir: str = "",
) -> Iterator[records.Question]:
  """Yields the questions of one shard, picture by picture.

  Args:
    split: as in the lines.
    shard, num_shards: which contiguous part of the split's pictures.
    seed: has no effect; nothing is drawn.
    questions_file: JSONL; the hand-written questions if empty.
    image_dir: folder of the pictures; scikit-image's if empty.

  Raises:
    FileNotFoundError: for a missing file, folder or package.
    ValueError: for a malformed line, a picture that cannot be read, or a
      split without lines.
  """
  del seed
  path = pathlib.Path(
    questions_file or pathlib.Path(__file__).parent / _QUESTIONS_FILE
  )
  folder = pathlib.Path(image_dir or _scikit_image_dir())
  lines = _read_lines(path)
  mine = [line for line in lines if line.split == split]
  if not mine:
    splits = sorted({line.split for line in lines})
    raise ValueError(f"{path} has no lines of split {split!r}; it has {splits}")
  groups = [list(g) for _, g in itertools.groupby(mine, lambda q: q.image)]
  first = len(groups) * shard // num_shards
  last = len(groups) * (shard + 1) // num_shards
  for group in groups[first:last]:
    name = group[0].image
    image = read_image(folder / name)
    for number, line in enumerate(group):
      yield records.Question(
        question_id=f"photos-{split}-{name}-{number}",
        image_id=f"photos-{name}",
        question=line.question,
        answers=line.answers,
        split=split,
        family=line.family,
        image=image,
      )


def read_image(path: pathlib.Path) -> bytes:
  """The bytes of a JPEG or PNG file, checked to decode to the end.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither JPEG nor PNG, truncated, or damaged.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError as e:
    raise FileNotFoundError(
      f"no picture {path}; put it there, or take its lines out of the"
      " questions file."
    ) from e
  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.format not in ("JPEG", "PNG"):
        raise ValueError(
          f"{path} is a {image.format} file; make it a JPEG or PNG."
        )
      image.load()
  except (OSError, SyntaxError) as e:
    raise ValueError(
      f"{path} is not a whole JPEG or PNG picture ({e}); replace the file."
    ) from e
  return data


def _scikit_image_dir():
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise FileNotFoundError(
      "the photographs come with scikit-image, which is not installed; run"
      " pip install 'vpd_jax[tools]', or set source.image_dir to your own."
    )
  return pathlib.Path(spec.origin).parent / "data"


def _read_lines(path):
  try:
    text = path.read_text(encoding="utf-8")
  except FileNotFoundError as e:
    raise FileNotFoundError(
      f"no questions file {path}; set source.questions_file."
    ) from e
  lines = []
  seen: set[tuple[str, str]] = set()
  for number, row in enumerate(text.splitlines(), start=1):
    if not row.strip():
      continue
    try:
      line = records.from_json(_Line, row)
      _check(line)
    except ValueError as e:
      raise ValueError(f"{path}, line {number}: {e}") from e
    key = line.split, line.image
    if key in seen and (lines[-1].split, lines[-1].image) != key:
      raise ValueError(
        f"{path}, line {number}: the lines about {line.image!r} do not stand"
        " together; sort the file by split and image."
      )
    seen.add(key)
    lines.append(line)
  return lines


def _check(line):
  for name in ("image", "split", "question"):
    value = getattr(line, name)
    if not isinstance(value, str) or not value.strip():
      raise ValueError(f"{name}={json.dumps(value)} must be a text.")
  if not isinstance(line.answers, tuple) or not all(
    isinstance(a, str) for a in line.answers
  ):
    raise ValueError(
      f"answers={json.dumps(line.answers)} must be a list of texts."
    )
