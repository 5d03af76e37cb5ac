"""Synthetic batches: shapes of real ones, the same for any processes."""

import numpy as np
import pytest

from vpd_jax.input import pipeline, tasks, tokens

_LENGTHS = tasks.Lengths(prompt=20, label=4, rationale=12)


def _batches(**options):
  defaults = {"seed": 0, "image_px": 8, "synthetic": True}
  return pipeline.train_batches(
    [], tokens.load(), _LENGTHS, 4, **defaults | options
  )


@pytest.mark.parametrize("size,patch_px", [(1, None), (2, None), (2, 4)])
def test_shapes_and_dtypes_are_those_of_records(
  write_split, make_record, size, patch_px
):
  made = [make_record(i, image_id="x", image=b"") for i in range(4)]
  picture = make_record(0)["image"]
  folder = write_split(records=[r | {"image": picture} for r in made])
  real = pipeline.train_batches(
    [{"dir": folder, "split": "train"}],
    tokens.load(),
    _LENGTHS,
    4,
    seed=0,
    image_px=8,
    questions_per_image=size,
    image_patch_px=patch_px,
  )
  found = next(_batches(questions_per_image=size, image_patch_px=patch_px))
  like = {key: (x.shape, x.dtype) for key, x in next(real).items()}
  assert {key: (x.shape, x.dtype) for key, x in found.items()} == like


def test_texts_are_full_and_hold_no_special_token():
  batch = next(_batches())
  tokenizer = tokens.load()
  for key, rows in batch.items():
    if key.endswith("_weights"):
      assert (rows == 1).all()
    elif key != "image":
      assert not np.isin(rows, [tokenizer.pad_id, tokenizer.eos_id]).any()
      assert len(np.unique(rows)) > 10


def test_every_batch_is_the_same_for_every_process_layout():
  whole = _batches(questions_per_image=2)
  parts = [
    _batches(questions_per_image=2, rows=rows) for rows in ([0, 1], [2, 3])
  ]
  first = next(whole)
  for _ in range(2):
    batches = [next(part) for part in parts]
    for key, rows in first.items():
      joined = np.concatenate([batch[key] for batch in batches])
      np.testing.assert_array_equal(joined, rows)
  assert (next(_batches(seed=1))["image"] != next(_batches())["image"]).any()


def test_the_position_is_of_no_other_input():
  batches = _batches()
  next(batches)
  state = batches.get_state()
  assert state["position"] == 1
  assert batches.example_ids(0) == ["synthetic"] * 4
  with pytest.raises(
    ValueError, match="questions_per_image: saved None, now 2"
  ):
    _batches(questions_per_image=2).set_state(state)
