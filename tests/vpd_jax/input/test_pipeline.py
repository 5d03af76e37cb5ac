"""Laws of the input: resume, rows, caching, mixing; one pass for evaluation."""

import json

import numpy as np
import pytest

from vpd_jax.input import pipeline, tasks, tokens

_LENGTHS = tasks.Lengths(prompt=20, label=4, rationale=12)


def _batches(data, **options):
  defaults = {"batch_size": 4, "seed": 0, "image_px": 8}
  entries = [{"split": "train", **entry} for entry in data]
  return pipeline.train_batches(
    entries, tokens.load(), _LENGTHS, **defaults | options
  )


def _answers(batch):
  tokenizer = tokens.load()
  return [int(tokenizer.decode(row)) for row in batch["label_target"].tolist()]


def _assert_same(a, b):
  assert set(a) == set(b)
  for key in a:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_batches_have_the_shapes_and_every_record_each_epoch(write_split):
  batches = _batches([{"dir": write_split(12)}])
  epoch = [next(batches) for _ in range(3)]
  shapes = {key: value.shape for key, value in epoch[0].items()}
  assert shapes == {
    "image": (4, 8, 8, 3),
    "label_prompt": (4, 20),
    "label_target": (4, 4),
    "label_weights": (4, 4),
    "rationale_prompt": (4, 20),
    "rationale_target": (4, 12),
    "rationale_weights": (4, 12),
  }
  answers = [a for batch in epoch for a in _answers(batch)]
  assert sorted(answers) == list(range(12)) and answers != list(range(12))


@pytest.mark.parametrize("num_threads", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_resumed_run_sees_what_an_unbroken_one_sees(
  write_split, num_threads, taken
):
  # 11 records in batches of 4: positions fall inside epochs.
  data = [
    {"dir": write_split(11), "weight": 3.0},
    {"dir": write_split(5, name="more", start=50), "weight": 1.0},
  ]
  unbroken = _batches(data, num_threads=num_threads)
  for _ in range(taken):
    next(unbroken)
  state = json.loads(json.dumps(unbroken.get_state()))
  resumed = _batches(data, num_threads=num_threads)
  next(resumed)
  resumed.set_state(state)
  for _ in range(8):
    _assert_same(next(resumed), next(unbroken))
  assert resumed.get_state() == unbroken.get_state()


def _join(batches):
  return {
    key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]
  }


@pytest.mark.parametrize("taken", range(7))
def test_a_position_is_the_same_on_other_processes_and_threads(
  write_split, taken
):
  data = [
    {"dir": write_split(5), "weight": 2},
    {"dir": write_split(4, name="more", start=50), "weight": 1},
  ]
  halves = [_batches(data, rows=rows) for rows in ([0, 1], [2, 3])]
  for _ in range(taken):
    for half in halves:
      next(half)
  first, second = [half.get_state() for half in halves]
  assert first == second and first["position"] == taken
  quarters = [
    _batches(data, rows=[row], num_threads=row, cache=row == 0)
    for row in range(4)
  ]
  for part in quarters:
    part.set_state(first)
  for _ in range(3):
    _assert_same(
      _join([next(q) for q in quarters]), _join([next(h) for h in halves])
    )


def _of_images(make_record, *numbers):
  """Records of several questions about each image; q0 is about the first."""
  pictures = {n: make_record(n)["image"] for n in numbers}
  return [
    make_record(i, image_id=f"i{n}", image=pictures[n])
    for i, n in enumerate(numbers)
  ]


def test_grouped_epochs_hold_each_question_once(write_split, make_record):
  images = (0, 0, 0, 1, 1, 2, 2, 2, 2, 3)
  folder = write_split(records=_of_images(make_record, *images))
  batches = _batches([{"dir": folder}], questions_per_image=2, batch_size=6)
  single = _batches([{"dir": folder}], batch_size=10)
  images_of = {}
  batch = next(single)
  for answer, image in zip(_answers(batch), batch["image"], strict=True):
    images_of[answer] = image
  for _ in range(2):  # Six groups an epoch, three a batch.
    pair = [next(batches) for _ in range(2)]
    assert {batch["image"].shape for batch in pair} == {(3, 8, 8, 3)}
    batch = _join(pair)
    is_real = batch["label_weights"].any(axis=1)
    answers = np.array(_answers(batch))
    assert sorted(answers[is_real]) == list(range(10))
    for row, answer in enumerate(answers):
      np.testing.assert_array_equal(batch["image"][row // 2], images_of[answer])
  assert batches.get_state()["position"] == 4


def test_one_image_id_in_two_data_sets_is_two_groups(write_split, make_record):
  made = _of_images(make_record, 0, 0)
  other = [make_record(i, image_id="i0") for i in (50,)]
  data = [
    {"dir": write_split(records=made, num_shards=1)},
    {"dir": write_split(records=other, name="more", num_shards=1)},
  ]
  batches = _batches(data, questions_per_image=2)
  assert sorted(batches.example_ids(0)) == ["", "q0", "q1", "q50"]


def test_grouped_processes_together_see_what_one_sees(write_split, make_record):
  folder = write_split(records=_of_images(make_record, 0, 0, 1, 2, 2, 2))
  grouped = {"questions_per_image": 2, "batch_size": 8}
  whole = _batches([{"dir": folder}], **grouped)
  rows_of = ([0, 1, 4, 5], [2, 3, 6, 7])  # As of devices that take turns.
  parts = [
    _batches([{"dir": folder}], rows=rows, **grouped) for rows in rows_of
  ]
  for _ in range(3):
    batch, found = next(whole), [next(part) for part in parts]
    for key, array in batch.items():
      if key == "image":
        array = np.repeat(array, 2, axis=0)
      for rows, part in zip(rows_of, found, strict=True):
        again = np.repeat(part[key], 2, axis=0) if key == "image" else part[key]
        np.testing.assert_array_equal(array[rows], again, key)


@pytest.mark.parametrize(
  "batch_size, rows, message",
  [
    (6, None, r"input.batch_size=6 .*questions_per_image=4 .*; try 4 or 8\."),
    (8, [0, 1], r"each process has 2 rows; try 16\."),
    (12, range(6), r"each process has 6 rows; try 8 or 16\."),
    (8, range(2, 6), "whole groups"),
  ],
)
def test_rows_must_hold_whole_groups(write_split, batch_size, rows, message):
  data = [{"dir": write_split(4)}]
  with pytest.raises(ValueError, match=message):
    _batches(data, questions_per_image=4, batch_size=batch_size, rows=rows)


@pytest.mark.parametrize("rows", [None, [1, 2]])
def test_ids_of_a_batch_are_those_of_its_rows(write_split, rows):
  data = [
    {"dir": write_split(7), "weight": 2},
    {"dir": write_split(4, name="more", start=50), "weight": 1},
  ]
  batches = _batches(data, rows=rows)
  for number in range(5):
    ids = batches.example_ids(number)
    assert len(ids) == 4
    mine = ids if rows is None else [ids[row] for row in rows]
    assert [f"q{a}" for a in _answers(next(batches))] == mine


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_damaged_record_is_an_error_at_its_place(write_split, num_threads):
  folder = write_split(8, num_shards=1)
  (path,) = folder.iterdir()
  batches = _batches([{"dir": folder}], num_threads=num_threads)
  ids = [batches.example_ids(number) for number in range(2)]
  damaged = bytearray(path.read_bytes())
  damaged[-6] ^= 1
  path.write_bytes(damaged)
  first_bad = 0 if "q7" in ids[0] else 1
  for _ in range(first_bad):
    next(batches)
  with pytest.raises(ValueError, match="damaged at record 7"):
    next(batches)
  assert batches.get_state()["position"] == first_bad


def test_a_position_of_another_form_is_refused(write_split):
  batches = _batches([{"dir": write_split(4)}])
  state = batches.get_state() | {"position": {"next_index": 3}}
  with pytest.raises(
    ValueError, match=r"position \{'next_index': 3\} is no number"
  ):
    batches.set_state(state)


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"seed": 1}, "seed: saved 0, now 1"),
    ({"batch_size": 2}, "batch_size: saved 4, now 2"),
  ],
)
def test_position_of_another_input_is_refused(write_split, changed, message):
  data = [{"dir": write_split(8)}]
  state = _batches(data).get_state()
  with pytest.raises(ValueError, match=message):
    _batches(data, **changed).set_state(state)


def test_processes_together_see_what_one_sees(write_split):
  data = [{"dir": write_split(10)}]
  whole = _batches(data, batch_size=6)
  parts = [
    _batches(data, batch_size=6, rows=rows) for rows in ([0, 1, 2], [3, 4, 5])
  ]
  for _ in range(5):
    rows = [next(part) for part in parts]
    joined = {key: np.concatenate([r[key] for r in rows]) for key in rows[0]}
    _assert_same(joined, next(whole))


def test_caching_changes_nothing(write_split):
  data = [{"dir": write_split(6)}]
  plain, cached = _batches(data), _batches(data, cache=True)
  for _ in range(6):
    batch = next(cached)
    _assert_same(batch, next(plain))
    batch["label_target"][:] = (
      0  # A caller that writes must not reach the cache.
    )


def test_cached_rows_are_read_once(write_split):
  folder = write_split(4)
  batches = _batches([{"dir": folder}], cache=True, num_threads=0)
  first = next(batches)
  for path in folder.iterdir():
    path.unlink()
  assert sorted(_answers(next(batches))) == sorted(_answers(first))


def test_mixture_has_its_shares(write_split):
  data = [
    {"dir": write_split(8), "weight": 3},
    {"dir": write_split(50, name="more", start=50), "weight": 1},
  ]
  batches = _batches(data)
  answers = [a for _ in range(20) for a in _answers(next(batches))]
  assert sum(a >= 50 for a in answers) == 20
  assert sum(a < 50 for a in answers) == 60


def test_a_data_set_can_have_its_own_prompt(write_split):
  data = [{"dir": write_split(4), "label_suffix": ""}]
  batch = next(_batches(data, label_suffix="Answer"))
  prompt = tokens.load().decode(batch["label_prompt"][0].tolist())
  assert prompt == "What color is it?"


def test_long_records_are_dropped_and_counted(write_split, make_record, caplog):
  records = [make_record(i) for i in range(6)]
  records[2]["question"] = "word " * 100
  data = [{"dir": write_split(records=records)}]
  with pytest.raises(tasks.TooLongError, match="record 'q2'"):
    batches = _batches(data, batch_size=6)
    next(batches)
  batches = _batches(data, drop_long=True, batch_size=5)
  assert sorted(_answers(next(batches))) == [0, 1, 3, 4, 5]
  assert "left out 1 records and 0 rationales" in caplog.text


def test_a_long_rationale_leaves_the_label(write_split, make_record, caplog):
  records = [make_record(i) for i in range(4)]
  records[2]["rationale"] = "word " * 100
  data = [{"dir": write_split(records=records)}]
  batch = next(_batches(data, drop_long=True, batch_size=4))
  assert "left out 0 records and 1 rationales" in caplog.text
  has_label = batch["label_weights"].any(axis=1)
  has_rationale = batch["rationale_weights"].any(axis=1)
  assert has_label.all() and has_rationale.sum() == 3
  assert _answers(batch)[int(np.flatnonzero(~has_rationale)[0])] == 2


def test_misspelt_option_fails_at_once(write_split):
  with pytest.raises(TypeError, match="lable_suffix"):
    _batches([{"dir": write_split(4), "lable_suffix": ""}])


def test_evaluation_sees_each_record_once_in_order(write_split):
  folder = write_split(7, split="validation")
  passes = list(
    pipeline.eval_batches(
      folder, "validation", tokens.load(), _LENGTHS, 3, image_px=8
    )
  )
  ids = [[r["example_id"] for r in records] for _, records in passes]
  assert ids == [["q0", "q1", "q2"], ["q3", "q4", "q5"], ["q6"]]
  assert {batch["image"].shape for batch, _ in passes} == {(3, 8, 8, 3)}
  batch, _ = passes[-1]
  np.testing.assert_array_equal(batch["is_real"], [True, False, False])
  for key in ("label_weights", "rationale_weights"):
    np.testing.assert_array_equal(batch[key].any(axis=1), batch["is_real"])
  # Filled rows are copies, so that no model meets an empty prompt.
  np.testing.assert_array_equal(
    batch["label_prompt"][2], batch["label_prompt"][0]
  )


def test_evaluation_processes_make_up_one_pass(write_split):
  folder = write_split(5, split="validation")

  def run(rows):
    return list(
      pipeline.eval_batches(
        folder, "validation", tokens.load(), _LENGTHS, 4, image_px=8, rows=rows
      )
    )

  whole = run(None)
  parts = [run(rows) for rows in ([0, 1], [2, 3])]
  assert len(parts[0]) == len(parts[1]) == len(whole) == 2
  for step, (batch, records) in enumerate(whole):
    pair = [part[step] for part in parts]
    joined = {k: np.concatenate([b[k] for b, _ in pair]) for k in batch}
    _assert_same(joined, batch)
    assert [r for _, part in pair for r in part] == records
