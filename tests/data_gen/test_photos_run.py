"""Real photographs through all stages, as configs/data_gen/photos.py says."""

import json
import shutil

import pytest

from data_gen import run, stage
from tests import configs


@pytest.mark.slow
def test_photographs_become_examples_with_rationales(tmp_path):
  for module in ("skimage", "cv2"):
    pytest.importorskip(module, reason=f"{module}: needs the extra [tools]")
  if shutil.which("tesseract") is None:
    pytest.skip("needs the system package tesseract-ocr")
  config = configs.load("data_gen/photos.py").to_dict() | {"num_workers": 1}
  contents = run.generate(config, tmp_path)
  counts = {name: stage.tally(content) for name, content in contents.items()}
  totals = {name: c.total() for name, c in counts.items()}
  questions = counts["questions"][""]
  assert questions >= 60
  assert totals["programs"] == totals["runs"] == 5 * questions
  for name in ("choices", "rationales", "examples"):
    assert totals[name] == questions
  assert counts["rationales"][""] >= 20
  assert counts["rationales"][""] <= counts["choices"][""]
  manifest = json.loads((tmp_path / "examples/manifest.json").read_text())
  splits = manifest["splits"].values()
  assert sum(s["examples"] for s in splits) == questions
  assert sum(s["with_rationale"] for s in splits) == counts["rationales"][""]
