"""Units: groups of one image hold every question once; wrong ids are named."""

import numpy as np
import pytest

from vpd_jax.input import examples, images, records, tasks, tokens

_LENGTHS = tasks.Lengths(prompt=20, label=4, rationale=12)


def _source(folder, **options):
  shards = records.find_shards(folder, "train")
  defaults = {"image_px": 8, "questions_per_image": 2}
  return examples.ExampleSource(
    records.RecordSource(shards),
    tokens.load(),
    _LENGTHS,
    **defaults | options,
  )


def _of_images(make_record, *numbers):
  """A record for each number, about the image of that number."""
  pictures = {n: make_record(n)["image"] for n in numbers}
  return [
    make_record(i, image_id=f"i{n}", image=pictures[n])
    for i, n in enumerate(numbers)
  ]


@pytest.mark.parametrize(
  "values, size, groups",
  [
    ([0, 1, 0, 0, 1], 2, [[0, 2], [3, -1], [1, 4]]),
    ([7, 7, 7], 3, [[0, 1, 2]]),
    ([1, 0], 2, [[1, -1], [0, -1]]),
    ([5, 4, 5], 1, [[1], [0], [2]]),
    ([], 3, np.empty((0, 3))),
  ],
)
def test_groups_by_hand(values, size, groups):
  found = examples.group(np.array(values, np.int64), size)
  np.testing.assert_array_equal(found, groups)
  assert found.dtype == np.int64


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_groups_hold_each_place_once_and_one_value(size):
  values = np.random.default_rng(0).integers(0, 40, 300)
  groups = examples.group(values, size)
  places = groups[groups >= 0]
  np.testing.assert_array_equal(np.sort(places), np.arange(300))
  for places in groups:
    assert len(set(values[places[places >= 0]])) == 1 and places[0] >= 0
  # No more groups than it takes.
  assert len(groups) == sum(-(-np.bincount(values) // size))


def test_units_hold_the_same_rows_as_records(write_split, make_record):
  folder = write_split(records=_of_images(make_record, 0, 1, 0, 0, 1))
  grouped, single = _source(folder), _source(folder, questions_per_image=1)
  units = [grouped[i] for i in range(len(grouped))]
  ids = [i for unit in range(3) for i in grouped.example_ids(unit)]
  assert ids == ["q0", "q2", "q3", "", "q1", "q4"]
  joined = examples.join(units)
  assert joined["image"].shape == (3, 8, 8, 3)
  joined["image"] = np.repeat(joined["image"], 2, axis=0)
  alone = examples.join([single[number] for number in (0, 2, 3, 1, 4)])
  for key, rows in joined.items():
    np.testing.assert_array_equal(rows[[0, 1, 2, 4, 5]], alone[key], key)


def test_a_row_that_fills_up_is_the_first_without_weight(
  write_split, make_record
):
  folder = write_split(records=_of_images(make_record, 0), num_shards=1)
  unit = _source(folder, questions_per_image=3)[0]
  for key, rows in unit.items():
    if key.endswith("_weights"):
      assert rows[0].any() and not rows[1:].any()
    elif key != "image":
      np.testing.assert_array_equal(rows[1:], rows[[0, 0]])


def test_a_group_decodes_its_picture_once(
  write_split, make_record, monkeypatch
):
  folder = write_split(records=_of_images(make_record, 0, 0, 1))
  source = _source(folder)
  decode, names = images.decode, []
  monkeypatch.setattr(
    images,
    "decode",
    lambda *args: (names.append(args[2]), decode(*args))[1],
  )
  _ = source[0], source[1]
  assert names == ["image 'i0' of record 'q0'", "image 'i1' of record 'q2'"]


def test_long_records_are_left_out_of_groups(write_split, make_record, caplog):
  made = _of_images(make_record, 0, 0, 0, 1)
  made[0]["question"] = "word " * 100
  made[2]["rationale"] = "word " * 100
  source = _source(write_split(records=made), drop_long=True)
  assert [source.example_ids(i) for i in range(len(source))] == [
    ["q1", "q2"],
    ["q3", ""],
  ]
  assert source[0]["rationale_weights"].any(axis=1).tolist() == [True, False]
  assert "left out 1 records and 1 rationales" in caplog.text
  expected = "3 questions about 2 images make 2 groups of 2; 25.0% of the rows"
  assert expected in caplog.text


def test_one_id_for_two_pictures_is_refused(write_split, make_record):
  made = [make_record(0, image_id="same"), make_record(1, image_id="same")]
  source = _source(write_split(records=made))
  with pytest.raises(
    ValueError, match=r"'q0' and 'q1' .* share image_id 'same'"
  ):
    source[0]


def test_questions_without_an_image_id_are_refused(write_split, make_record):
  made = [make_record(0), make_record(1, image_id="")]
  folder = write_split(records=made)
  with pytest.raises(ValueError, match=r"record 'q1' .* has no image_id"):
    _source(folder)
  assert len(_source(folder, questions_per_image=1)) == 2
