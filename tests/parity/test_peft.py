"""Our low-rank updates against peft's, on transformers' models."""

import importlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from tests.parity import test_t5
from vpd_jax import step, trees
from vpd_jax.checkpoint import (
  adapters,
  convert,
  exchange,
  families,
  model_folder,
  peft,
  reference,
)
from vpd_jax.models import lora
from vpd_jax.models.pali import params

FAMILY = "T5 v1.1, Flan-T5"
RANK, ALPHA = 3, 5.0
PATTERNS = {
  "text": lora.PRESETS["vpd_generalist"]["patterns"],
  "image": ("vit/blocks/",),
}
PROMPT, TARGET = test_t5.prompts(3, 20), test_t5.prompts(3, 9, seed=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 42, 42, 3), np.uint8)
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def theirs():
  return pytest.importorskip("peft", reason="needs peft: run make parity")


@pytest.fixture(scope="module")
def version(theirs):
  return f"peft {theirs.__version__}"


class Pair:
  """A reference model, and ours with updates on the same weights."""

  def __init__(self, part, folder, pali_reference, references):
    self.part, self.references = part, references
    if part == "text":
      self.reference = pali_reference.write_t5(folder, FAMILY)
    else:
      self.reference = pali_reference.write_siglip(folder)
    self.folder = folder
    graphdef, self.named, self.options = pali_reference.ours(**{part: folder})
    self.base = references.merge(graphdef, self.named)
    self.table = params.table(self.options, part)

  def fresh_reference(self):
    """The reference anew: peft changes the one it is given."""
    return type(self.reference).from_pretrained(self.folder).float().eval()

  def updated(self, options, arrays):
    """Our model with updates of those values."""
    model = nnx.clone(self.base)
    lora.add(model, **options)
    for name, value in arrays.items():
      node = model
      for key in name.split("/"):
        node = getattr(node, key)
      assert node.shape == value.shape, name
      node.set_value(jax.numpy.asarray(value))
    return model

  def drawn(self):
    """(options, name -> array) of an update that is not zero."""
    options: dict[str, Any] = dict(
      patterns=PATTERNS[self.part], rank=RANK, alpha=ALPHA
    )
    model = lora.add(nnx.clone(self.base), **options)
    shapes = trees.flatten_with_names(
      nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    rng = np.random.default_rng(5)
    arrays = {
      n: 0.3 * rng.standard_normal(x.shape).astype(np.float32)
      for n, x in shapes.items()
      if lora.is_update(n)
    }
    return options, arrays

  def ours(self, model):
    if self.part == "text":
      found = jax.jit(test_t5.logits)(model, PROMPT, TARGET)
      return np.asarray(found)[TARGET != 0]
    return np.asarray(jax.jit(lambda m: m.vit(IMAGES))(model))

  def theirs(self, model):
    import torch

    with torch.no_grad():
      if self.part == "text":
        found = test_t5.reference_outputs(model, PROMPT, TARGET).logits
        return found.numpy()[TARGET != 0]
      pixels = torch.tensor(IMAGES).float() / 127.5 - 1.0
      pixels = pixels.permute(0, 3, 1, 2)
      return model(pixel_values=pixels).last_hidden_state.numpy()


@pytest.fixture(scope="module", params=["text", "image"])
def pair(request, pali_reference, references, tmp_path_factory):
  folder = tmp_path_factory.mktemp("base") / "model"
  return Pair(request.param, folder, pali_reference, references)


def test_our_adapter_on_their_model(pair, theirs, version, compare, tmp_path):
  options, arrays = pair.drawn()
  wrapped = {n: convert.in_memory(x, n) for n, x in arrays.items()}
  peft.write(tmp_path / "adapter", wrapped, pair.table, alpha=ALPHA)
  adapted = theirs.PeftModel.from_pretrained(
    pair.fresh_reference(), tmp_path / "adapter"
  ).eval()
  model = pair.updated(options, arrays)
  ours, expected = pair.ours(model), pair.theirs(adapted)
  moved = np.abs(expected - pair.theirs(pair.fresh_reference())).max()
  assert moved > 0.1, "the adapter changes nothing"
  difference = np.abs(ours - expected).max()
  compare(f"LoRA, {pair.part}", version, "adapter", difference, 2e-4)
  merged = pair.theirs(adapted.merge_and_unload())
  difference = np.abs(pair.ours(lora.merge(model)) - merged).max()
  compare(f"LoRA, {pair.part}", version, "merged", difference, 2e-4)


def test_their_adapter_on_our_model(pair, theirs, version, compare, tmp_path):
  import torch

  targets = ["q", "v", "wo"] if pair.part == "text" else ["q_proj", "fc2"]
  config = theirs.LoraConfig(
    r=RANK, lora_alpha=7, target_modules=targets, lora_dropout=0.1
  )
  adapted = theirs.get_peft_model(pair.fresh_reference(), config).eval()
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in adapted.named_parameters():
      if "lora_" in name:
        parameter.normal_(0.0, 0.3)
  adapted.save_pretrained(tmp_path / "adapter")
  found = peft.read(tmp_path / "adapter", pair.table, pair.named)
  assert found.options["alpha"] == 7 and found.options["dropout"] == 0.1
  arrays = {n: array.whole() for n, array in found.arrays.items()}
  model = pair.updated(found.options, arrays)
  updates = {
    "/".join(map(str, path))
    for path, node in nnx.iter_graph(model)
    if isinstance(node, lora.LowRank)
  }
  assert updates == {n.rpartition("/")[0] for n in arrays}
  difference = np.abs(pair.ours(model) - pair.theirs(adapted)).max()
  compare(f"LoRA, {pair.part}", version, "their adapter", difference, 2e-4)


def test_out_and_in_is_the_identity(pair, tmp_path):
  _, arrays = pair.drawn()
  wrapped = {n: convert.in_memory(x, n) for n, x in arrays.items()}
  peft.write(tmp_path / "adapter", wrapped, pair.table, alpha=ALPHA)
  found = peft.read(tmp_path / "adapter", pair.table, pair.named)
  assert (found.options["rank"], found.options["alpha"]) == (RANK, ALPHA)
  assert set(found.arrays) == set(arrays)
  for name, array in found.arrays.items():
    np.testing.assert_array_equal(array.whole(), arrays[name])


# Model -> (module of tests.parity, function that writes it, its arguments,
# class there, our updates, modules that peft adapts).
MODELS = {
  "BLIP-2": (
    *("blip2", "write_generation", ["BLIP-2 Flan-T5"]),
    "Blip2ForConditionalGeneration",
    ("(encoder|decoder)/blocks/", "qformer/.*(query|value|down)$"),
    r".*language_model.*\.(q|v|wi_1|wo)|.*qformer.*\.(query|value)",
  ),
  "PaliGemma 2": (
    *("paligemma", "write", ["PaliGemma 2"]),
    "PaliGemmaForConditionalGeneration",
    ("decoder/blocks/", "vit/blocks/", "projection"),
    r".*language_model.*(q_proj|down_proj)|.*(fc1|out_proj|linear)",
  ),
  "T5Gemma 2": (
    *("t5gemma2", "write", []),
    "T5Gemma2ForConditionalGeneration",
    ("(encoder|decoder)/blocks/", "vit/blocks/mlp"),
    r".*(q_proj|o_proj|up_proj|fc2)",
  ),
}
FLOAT = np.dtype(np.float32)


class Whole:
  """A model of one part: theirs in a folder, ours in another."""

  def __init__(self, name, folder):
    module, function, arguments, cls, *_ = MODELS[name]
    module = importlib.import_module(f"tests.parity.{module}_reference")
    getattr(module, function)(folder / "theirs", *arguments)
    self.folder, self.cls = folder, cls
    exchange.bring_in({None: f"hf:{folder / 'theirs'}"}, folder / "ours", FLOAT)
    self.saved = model_folder.read(folder / "ours")

  def base(self):
    import transformers

    cls = getattr(transformers, self.cls)
    return cls.from_pretrained(self.folder / "theirs").float().eval()

  def updates(self, patterns):
    """Name -> array of updates that are not zero."""
    shapes = families.Shapes(self.saved.family, self.saved.options)
    zeros = {n: np.zeros(x.shape, x.dtype) for n, x in shapes.named.items()}
    params = trees.unflatten_like(shapes.tree, zeros)
    model = step.merge(shapes.graphdef, params)
    lora.add(model, patterns, rank=RANK, alpha=ALPHA)
    named = trees.flatten_with_names(
      nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    rng = np.random.default_rng(5)
    return {
      n: 0.3 * rng.standard_normal(x.shape).astype(np.float32)
      for n, x in named.items()
      if lora.is_update(n)
    }

  def check(self, adapted, adapter, tmp_path):
    """The difference of both models, merged; and that it is another model."""
    adapted.merge_and_unload().save_pretrained(tmp_path / "theirs")
    ours = tmp_path / "ours"
    exchange.merge(self.folder / "ours", adapter, ours, FLOAT)
    (line,) = reference.compare(ours, {"model": tmp_path / "theirs"})
    with pytest.raises(ValueError, match="is written, but is not equal"):
      reference.compare(self.folder / "ours", {"model": tmp_path / "theirs"})
    return float(line.split("differ by ")[1].split()[0])


@pytest.fixture(scope="module", params=MODELS)
def whole(request, references, tmp_path_factory):
  return request.param, Whole(request.param, tmp_path_factory.mktemp("whole"))


def test_our_adapter_of_a_whole_model(
  whole, theirs, version, compare, tmp_path
):
  name, model = whole
  updates = model.updates(MODELS[name][4])
  wrapped = {n: convert.in_memory(x, n) for n, x in updates.items()}
  saved = model.saved
  (folder,) = adapters.write(
    tmp_path / "adapter", saved.family, saved.options, wrapped, alpha=ALPHA
  )
  adapted = theirs.PeftModel.from_pretrained(model.base(), folder)
  difference = model.check(adapted, folder, tmp_path)
  compare(f"LoRA, {name}", version, "adapter, merged", difference, 1e-4)


def test_their_adapter_of_a_whole_model(
  whole, theirs, version, compare, tmp_path
):
  import torch

  name, model = whole
  config = theirs.LoraConfig(
    r=RANK, lora_alpha=7, target_modules=MODELS[name][5]
  )
  adapted = theirs.get_peft_model(model.base(), config)
  torch.manual_seed(0)
  count = 0
  with torch.no_grad():
    for key, parameter in adapted.named_parameters():
      if "lora_" in key:
        parameter.normal_(0.0, 0.3)
        count += 1
  assert count >= 20
  adapted.save_pretrained(tmp_path / "adapter")
  difference = model.check(adapted, tmp_path / "adapter", tmp_path)
  compare(f"LoRA, {name}", version, "their adapter, merged", difference, 1e-4)
