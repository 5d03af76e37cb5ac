"""Rows of a batch, drawn out; weights; refusals."""

import numpy as np
import pytest

from vpd_jax.input import tasks, tokens

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


def test_broken_image_names_the_record(make_record):
  record = make_record(7, question="it", rationale="7", image=b"broken")
  with pytest.raises(ValueError, match="image 'i7' of record 'q7'"):
    _arrays(record)
