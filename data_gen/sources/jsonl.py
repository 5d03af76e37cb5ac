"""Your own images and questions: a JSONL file beside a folder of images.

One line is one question:

    {"image": "kitchen/01.jpg", "question": "How many cups are there?",
     "answers": ["3"], "split": "train", "family": "count"}

`image` is a path from `image_dir`; `answers` may be missing (unlabelled),
`split` is "train" where it is, and `family`, `choices`, `regions` and `id`
are optional.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from data_gen import records
from vpd_jax import config_check

KEYS = (
  "image",
  "question",
  "answers",
  "split",
  "family",
  "choices",
  "regions",
  "id",
)


def read(
  *,
  split: str,
  shard: int,
  num_shards: int,
  seed: int,
  path: str,
  image_dir: str = "",
  default_split: str = "train",
) -> Iterator[records.Question]:
  """Yields the questions of one shard of a split, in the file's order.

  Args:
    split: of the lines to read.
    shard, num_shards: a contiguous part of the split's lines.
    seed: not used; the file says it all.
    path: of the JSONL file.
    image_dir: where image paths start; the file's own folder if empty.
    default_split: of lines that name none.

  Yields:
    Questions; the image of a missing file is empty, and the stage
    `questions` decides what becomes of it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: on a malformed line, naming file and line; or if the split has
      no line at all.
  """
  del seed
  file = pathlib.Path(path)
  if not file.exists():
    raise FileNotFoundError(
      f"config.source.path={path!r} does not exist; give a file of JSON lines."
    )
  folder = pathlib.Path(image_dir) if image_dir else file.parent
  lines = [
    (number, row)
    for number, row in _lines(file)
    if row.get("split", default_split) == split
  ]
  if not lines:
    raise ValueError(
      f"{file} has no line of the split {split!r}; name it in the lines"
      f' ("split": "{split}"), or remove it from config.splits.'
    )
  start = len(lines) * shard // num_shards
  end = len(lines) * (shard + 1) // num_shards
  for number, row in lines[start:end]:
    image = folder / row["image"]
    yield records.Question(
      question_id=row.get("id", f"{file.stem}-{number:07d}"),
      image_id=row["image"],
      question=row["question"],
      answers=tuple(row.get("answers", ())),
      split=split,
      family=row.get("family", ""),
      choices=tuple(row.get("choices", ())),
      regions=tuple(tuple(box) for box in row.get("regions", ())),
      image=image.read_bytes() if image.is_file() else b"",
    )


def _lines(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  ids: dict[str, int] = {}
  with file.open("rb") as lines:
    for number, line in enumerate(lines, start=1):
      if not line.strip():
        continue
      try:
        row = json.loads(line.decode("utf-8"))
        _check(row)
        if row.get("id", "") in ids:
          first = ids[row["id"]]
          raise ValueError(f"id {row['id']!r} is that of line {first} too")
      except ValueError as e:
        raise ValueError(f"{file}, line {number}: {e}") from e
      if "id" in row:
        ids[row["id"]] = number
      yield number, row


def _check(row: Any) -> None:
  if not isinstance(row, Mapping):
    raise ValueError(f"expected an object with {KEYS}, got {row!r}")
  config_check.check_names(row, KEYS, "")
  for key in ("image", "question"):
    if not isinstance(row.get(key), str) or not row[key].strip():
      raise ValueError(f"{key!r} must be a text, got {row.get(key)!r}")
  for key in ("answers", "choices"):
    values = row.get(key, [])
    if not isinstance(values, list) or not all(
      isinstance(v, str) for v in values
    ):
      raise ValueError(f"{key!r} must be a list of texts, got {values!r}")
  for key in ("split", "family", "id"):
    if not isinstance(row.get(key, ""), str):
      raise ValueError(f"{key!r} must be a text, got {row[key]!r}")
  if not isinstance(row.get("regions", []), list):
    raise ValueError(f"'regions' must be a list of boxes: {row['regions']!r}")
  for box in row.get("regions", []):
    if not (
      isinstance(box, list)
      and len(box) == 4
      and all(isinstance(c, int) and 0 <= c <= 999 for c in box)
    ):
      raise ValueError(f"'regions' holds {box!r}, not 'y1 x1 y2 x2' in 0..999")
