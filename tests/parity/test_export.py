"""What a run leaves: transformers and peft load it, and compute what we do."""

import numpy as np
import pytest

from tests.parity import test_t5
from tests.vpd_jax import test_export
from vpd_jax import run_export
from vpd_jax.checkpoint import exchange

FAMILY = "PaLI: a trained model's export"
FLOAT = np.dtype(np.float32)
PROMPT, TARGET = test_t5.prompts(3, 20), test_t5.prompts(3, 9, seed=2)
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def left(references, tmp_path_factory):
  """A folder with text/ and image/, and base/, out/, peft/, hf/ of ours."""
  folder = tmp_path_factory.mktemp("export")
  # Tokens of the prompts are below 96.
  test_export.write_foreign(folder)
  parts = {part: f"hf:{folder / part}" for part in test_export.PARTS}
  exchange.bring_in(parts, folder / "base", FLOAT)
  updates = dict(patterns=test_export.PATTERNS, rank=2, alpha=3.0)
  config, workdir = test_export.finished(
    folder, folder / "base", {"lora": updates}
  )
  out = str(folder / "out")
  run_export.write(config, workdir, out, str(folder / "peft"))
  return folder


def test_transformers_computes_what_the_exported_model_does(
  left, references, compare
):
  report = exchange.export(left / "out", left / "hf", FLOAT, is_checked=True)
  found = [x.split("differ by ")[1].split()[0] for x in report if "differ" in x]
  assert len(found) == 2
  worst = max(map(float, found))
  compare(FAMILY, references.VERSION, "outputs, relative", worst, 1e-4)


@pytest.mark.parametrize("part", test_export.PARTS)
def test_an_adapter_on_the_base_is_the_merged_model(
  left, references, compare, part, tmp_path
):
  import torch
  import transformers

  peft = pytest.importorskip("peft", reason="needs peft: run make parity")
  exchange.export(left / "out", tmp_path / "hf", FLOAT)
  cls = {
    "text": transformers.T5ForConditionalGeneration,
    "image": transformers.SiglipVisionModel,
  }[part]

  def outputs(model):
    with torch.no_grad():
      if part == "text":
        return test_t5.reference_outputs(model, PROMPT, TARGET).logits.numpy()
      pixels = torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
      return model(pixel_values=pixels).last_hidden_state.numpy()

  base = references.load(cls, left / part)
  before = outputs(base)
  adapted = peft.PeftModel.from_pretrained(base, left / "peft" / part).eval()
  merged = outputs(references.load(cls, tmp_path / "hf" / part))
  assert np.abs(merged - before).max() > 0.1, "the adapter changes nothing"
  difference = np.abs(outputs(adapted) - merged).max()
  version = f"peft {peft.__version__}"
  compare(FAMILY, version, f"adapter, {part}", difference, 2e-4)
