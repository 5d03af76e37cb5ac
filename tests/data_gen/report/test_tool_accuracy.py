"""The tools' measured accuracy on the world, and that measuring can fail."""

import json

import pytest

from data_gen.report import tool_accuracy
from data_gen.tools import world_find


def test_quickstart_tools_are_good_and_not_perfect():
  measured = tool_accuracy.measure(num_images=60)
  # Measured on 200 images: 0.989, 0.995, 0.9991, 0.980, 1.000.
  assert measured["find_recall"] > 0.97
  assert measured["find_precision"] > 0.97
  assert measured["box_iou"] > 0.98
  assert measured["color"] > 0.95
  assert measured["kind"] > 0.97
  # The world has objects that are hard on purpose.
  assert min(measured["find_recall"], measured["color"]) < 1


@pytest.mark.slow
def test_large_world_tools_read_words_and_depth():
  measured = tool_accuracy.measure({"preset": "large"}, num_images=40)
  assert measured["find_recall"] > 0.9
  assert measured["ocr"] > 0.85
  assert measured["depth_order"] > 0.9


def test_a_blind_detector_is_measured_as_blind(monkeypatch):
  monkeypatch.setattr(
    world_find.Tool, "run_batch", lambda self, calls: [[] for _ in calls]
  )
  assert tool_accuracy.measure(num_images=2)["find_recall"] == 0


def test_write_puts_the_figures_beside_the_data(tmp_path):
  (tmp_path / "config.json").write_text(
    json.dumps({"config": {"source": {"name": "world"}}})
  )
  measured = tool_accuracy.write(tmp_path, num_images=2)
  written = json.loads((tmp_path / "tool_accuracy.json").read_text())
  assert written["color"] == pytest.approx(measured["color"], abs=1e-4)


def test_write_refuses_a_folder_that_is_no_workdir(tmp_path):
  with pytest.raises(FileNotFoundError, match="give the workdir"):
    tool_accuracy.write(tmp_path)


def test_write_refuses_a_source_without_a_truth(tmp_path):
  (tmp_path / "config.json").write_text(
    json.dumps({"config": {"source": {"name": "photos"}}})
  )
  with pytest.raises(ValueError, match="source 'photos'"):
    tool_accuracy.write(tmp_path)
