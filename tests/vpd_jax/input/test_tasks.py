"""Rows of a batch, drawn out; weights; refusals."""

import io

import numpy as np
import pytest
from PIL import Image

from vpd_jax.input import preprocess, tasks, tokens

_PIECES = (" it", " red", " 7", " ;", " Say", " Why")
_IT, _RED, _7, _SEMI, _SAY, _WHY = range(258, 264)
_EOS = 1


def _arrays(record, lengths=(3, 3, 5), **options):
  defaults = {"image_px": 8, "label_suffix": "Say", "rationale_suffix": "Why"}
  tokenizer = tokens.ByteTokenizer(_PIECES)
  lengths = tasks.Lengths(*lengths)
  return tasks.to_arrays(record, tokenizer, lengths, **defaults | options)


def test_row_has_both_tasks(make_record):
  row = _arrays(
    make_record(0, question="it", answer="red", rationale="7 ; red")
  )
  expected = {
    "label_prompt": [_IT, _SAY, 0],
    "label_target": [_RED, _EOS, 0],
    "label_weights": [1, 1, 0],
    "rationale_prompt": [_IT, _WHY, 0],
    "rationale_target": [_7, _SEMI, _RED, _EOS, 0],
    "rationale_weights": [1, 1, 1, 1, 0],
  }
  for name, values in expected.items():
    dtype = np.float32 if name.endswith("weights") else np.int32
    assert row[name].dtype == dtype
    np.testing.assert_array_equal(row[name], values)
  assert row["image"].shape == (8, 8, 3) and row["image"].dtype == np.uint8
  assert set(row) == {*expected, "image"}


@pytest.mark.parametrize(
  "task, field", [("label", "answer"), ("rationale", "rationale")]
)
def test_absent_target_has_no_weight(make_record, task, field):
  row = _arrays(
    make_record(7, **{"question": "it", "rationale": "7", field: ""})
  )
  assert row[f"{task}_prompt"].any()
  assert not row[f"{task}_target"].any()
  assert not row[f"{task}_weights"].any()


def test_empty_suffix_leaves_the_question_alone(make_record):
  record = make_record(7, question="it", rationale="7")
  row = _arrays(record, label_suffix="")
  np.testing.assert_array_equal(row["label_prompt"], [_IT, 0, 0])


@pytest.mark.parametrize(
  "lengths, message",
  [
    ((1, 3, 5), "its label prompt has 2 tokens, more than lengths.prompt=1"),
    ((2, 1, 5), "its label target has 2 tokens, more than lengths.label=1"),
    ((2, 2, 3), "rationale target has 4 tokens, more than lengths.rationale=3"),
  ],
)
def test_nothing_is_cut(make_record, lengths, message):
  record = make_record(7, question="it", answer="red", rationale="7 ; red")
  _arrays(record, (2, 2, 4))
  with pytest.raises(tasks.TooLongError, match=f"record 'q7': .*{message}"):
    _arrays(record, lengths)


def test_patches_have_the_pictures_own_shape(make_record):
  image = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
  encoded = io.BytesIO()
  Image.fromarray(image).save(encoded, "PNG")
  record = make_record(7, question="it", rationale="7")
  record["image"] = encoded.getvalue()
  row = _arrays(record, image_patch_px=2, image_kernel="bilinear")
  # As many as in a square of 8 pixels: 16, of which 2 rows of 5 are close.
  expected = preprocess.naflex(image, 2, 16, "bilinear")
  for name, array in zip(
    ("image", "image_mask", "image_grid"), expected, strict=True
  ):
    np.testing.assert_array_equal(row[name], array)
  assert row["image_grid"].tolist() == [2, 5] and row["image_mask"].sum() == 10
  with pytest.raises(ValueError, match="image_resize_px=8 is for squares"):
    _arrays(record, image_patch_px=2, image_resize_px=8)


def test_broken_image_names_the_record(make_record):
  record = make_record(7, question="it", rationale="7", image=b"broken")
  with pytest.raises(ValueError, match="image 'i7' of record 'q7'"):
    _arrays(record)
