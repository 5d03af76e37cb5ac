"""Fields of a training record: the one contract between data_gen and vpd_jax.

A record is one question about one image. `data_gen.writers` writes it,
`vpd_jax.input` reads it; both use the functions below and no others. Boxes
are four integers "y1 x1 y2 x2" on a 0..999 grid, origin at the top left, each
axis scaled by its own image side (Hu et al., arXiv:2312.03052, figures).
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from vpd_jax.input import tfrecord

VERSION = "1.0.0"

Kind = Literal["text", "texts", "image", "boxes"]


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of a record.

  Attributes:
    name: its key in the tf.train.Example and in the parsed dict.
    kind: "text" (str), "texts" (list of str), "image" (encoded JPEG or PNG
      bytes) or "boxes" (list of [y1, x1, y2, x2] ints).
    doc: what it means.
  """

  name: str
  kind: Kind
  doc: str


FIELDS = (
  Field("example_id", "text", "Unique within the data set."),
  Field("image", "image", "The picture, encoded."),
  Field("image_id", "text", "Same for all questions about one picture."),
  Field("question", "text", "As asked, without a task instruction."),
  Field("answer", "text", "Target of the label loss; empty: none."),
  Field("answers", "texts", "Every accepted answer, for scoring."),
  Field("answer_source", "text", "'human', or 'program' for a pseudo-label."),
  Field("rationale", "text", "Target of the rationale loss; empty: none."),
  Field("program", "text", "The program that the rationale came from."),
  Field("choices", "texts", "Options of a multiple-choice question."),
  Field("regions", "boxes", "Boxes that the question points at, in order."),
  Field("objects", "boxes", "Where objects really are, if known (scoring)."),
  Field(
    "reference_rationale",
    "text",
    "A rationale known to be right, if the source has one: for scoring and"
    " for upper-bound experiments, never mixed into `rationale`.",
  ),
  Field("family", "text", "Kind of question, for tables."),
  Field("source", "text", "Name of the data set that it came from."),
)
_BY_NAME = {field.name: field for field in FIELDS}


def serialize(record: Mapping[str, Any]) -> bytes:
  """A record as tf.train.Example bytes; absent fields are written empty.

  Raises:
    KeyError: for a field that is not in the schema.
    ValueError: if the image is missing, or a box is not four ints in 0..999.
  """
  unknown = sorted(set(record) - set(_BY_NAME))
  if unknown:
    raise KeyError(f"fields {unknown} are not in the schema {list(_BY_NAME)}")
  if not record.get("image"):
    raise ValueError(f"record {record.get('example_id')!r} has no image")
  features = {}
  for field in FIELDS:
    value = record.get(field.name)
    if field.kind == "text":
      features[field.name] = [(value or "").encode()]
    elif field.kind == "texts":
      features[field.name] = [v.encode() for v in value or ()]
    elif field.kind == "image":
      features[field.name] = [value]
    else:
      features[field.name] = [c for box in value or () for c in _box(box)]
  return tfrecord.encode_example(features)


def parse(
  payload: bytes, names: Collection[str] | None = None
) -> dict[str, Any]:
  """The inverse of `serialize`.

  Args:
    payload: a record's bytes.
    names: fields to read, which takes less time; None: all.

  Returns:
    These fields of the schema: str, list of str, bytes, or list of [y1, x1,
    y2, x2].

  Raises:
    ValueError: if the bytes are no Example, or lack a field.
  """
  wanted = _BY_NAME if names is None else names
  features = tfrecord.decode_example(payload, names)
  missing = [name for name in wanted if name not in features]
  if missing:
    raise ValueError(
      f"record lacks {missing}; it has"
      f" {sorted(tfrecord.decode_example(payload))}. It was written for"
      f" another schema than {VERSION}: generate the data again."
    )
  record: dict[str, Any] = {}
  for name in wanted:
    field, values = _BY_NAME[name], features[name]
    if field.kind == "text":
      record[field.name] = values[0].decode()
    elif field.kind == "texts":
      record[field.name] = [v.decode() for v in values]
    elif field.kind == "image":
      record[field.name] = values[0]
    else:
      record[field.name] = [values[i : i + 4] for i in range(0, len(values), 4)]
  return record


def _box(box) -> list[int]:
  coords = [int(c) for c in box]
  if len(coords) != 4 or not all(0 <= c <= 999 for c in coords):
    raise ValueError(f"box {list(box)} is not 'y1 x1 y2 x2' in 0..999")
  return coords
