"""The photos source: our questions, whose pictures scikit-image carries."""

import importlib.util

import pytest

from data_gen.sources import photos

KEYS = {"shard": 0, "num_shards": 1, "seed": 0}


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


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(FileNotFoundError, match=r"vpd_jax\[tools\]"):
    photos.read(split="train", **KEYS)
