"""Records keep every field, and refuse what is not in the schema."""

import pytest

from vpd_jax.input import schema, tfrecord

_FULL = {
  "example_id": "e",
  "image": b"\xff\xd8",
  "image_id": "i",
  "question": "What colour? ü",
  "answer": "red",
  "answers": ["red", "crimson"],
  "answer_source": "human",
  "rationale": "1 2 3 4 ; red",
  "program": "def execute_command(image):\n  return 'red'\n",
  "choices": ["red", "blue"],
  "regions": [[1, 2, 3, 4]],
  "objects": [[0, 0, 999, 999], [5, 6, 7, 8]],
  "reference_rationale": "1 2 3 4 ; red",
  "family": "attr",
  "source": "world",
}


def test_every_field_round_trips():
  assert set(_FULL) == {field.name for field in schema.FIELDS}
  assert schema.parse(schema.serialize(_FULL)) == _FULL


def test_some_fields_can_be_read_alone():
  payload = schema.serialize(_FULL)
  names = ("objects", "image_id")
  assert schema.parse(payload, names) == {n: _FULL[n] for n in names}
  payload = tfrecord.encode_example({"image": [b"x"], "query": [b"y"]})
  with pytest.raises(
    ValueError, match=r"lacks \['image_id'\]; it has .*'query"
  ):
    schema.parse(payload, ("image", "image_id"))


def test_absent_fields_are_empty():
  record = schema.parse(schema.serialize({"image": b"x"}))
  assert record["rationale"] == "" and record["objects"] == []
  assert record["answers"] == [] and set(record) == set(_FULL)


def test_unknown_field_is_refused():
  with pytest.raises(KeyError, match="'rational'"):
    schema.serialize(_FULL | {"rational": "x"})


def test_missing_image_is_refused():
  with pytest.raises(ValueError, match="record 'e' has no image"):
    schema.serialize(_FULL | {"image": b""})


@pytest.mark.parametrize("box", [[1, 2, 3], [0, 0, 0, 1000], [-1, 0, 0, 0]])
def test_bad_box_is_refused(box):
  with pytest.raises(ValueError, match=r"is not 'y1 x1 y2 x2' in 0..999"):
    schema.serialize(_FULL | {"objects": [box]})


def test_record_of_another_schema_is_refused():
  payload = tfrecord.encode_example({"image": [b"x"], "query": [b"y"]})
  with pytest.raises(ValueError, match=r"lacks \['example_id'.*'query'"):
    schema.parse(payload)
