"""The image side against transformers' SigLIP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.checkpoint import convert, hf
from vpd_jax.models.pali import hf_config, params

FAMILY = "SigLIP, SigLIP 2"
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def pair(pali_reference, tmp_path_factory):
  """(folder, reference model, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("siglip") / "model"
  reference = pali_reference.write_siglip(folder)
  return folder, reference, *pali_reference.ours(image=folder)


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(5)
  return rng.integers(0, 256, (3, 42, 42, 3)).astype(np.uint8)


def test_tokens(pair, images, references, pali_reference, compare):
  _, reference, graphdef, named, _ = pair
  theirs = reference(pali_reference.pixels(images)).last_hidden_state
  theirs = theirs.detach().numpy()
  assert 0.5 < theirs.std() < 2, "tokens are not of unit scale"
  ours = jax.jit(lambda a: references.merge(graphdef, a).vit(images))(named)
  difference = np.abs(ours - theirs).max()
  compare(FAMILY, references.VERSION, "image tokens", difference, 2e-4)


def test_gradients(pair, images, references, pali_reference, compare):
  _, reference, graphdef, named, options = pair
  import torch

  weights = np.random.default_rng(6).standard_normal((3, 9, 32))
  weights = weights.astype(np.float32)
  reference.zero_grad()
  tokens = reference(pali_reference.pixels(images)).last_hidden_state
  (tokens * torch.tensor(weights)).sum().backward()
  table = params.table(options, "image")
  theirs = references.their_gradients(reference, table, named)
  ours = references.gradients(
    lambda model: jnp.sum(model.vit(images) * weights), graphdef, named
  )
  # A softmax does not see what all its scores share.
  worst = references.worst_gradient(ours, theirs, zero=["key/bias"])
  compare(FAMILY, references.VERSION, "gradients, relative", worst, 1e-3)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_both_spellings_and_the_unused_head(
  pali_reference, tmp_path, prefix, pair
):
  folder = tmp_path / "model"
  pali_reference.write_siglip(folder, prefix, has_head=True)
  assert any("probe" in name for name in hf.scan(folder))
  _, named, _ = pali_reference.ours(image=folder)
  # Seeds are equal, but arrays are drawn in the order of all names.
  assert named.keys() == pair[3].keys()


def test_tower_of_a_whole_siglip(
  references, pali_reference, tmp_path, images, compare
):
  import torch
  import transformers

  tower = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=47,  # Three patches of 14 fit: 42 pixels.
    patch_size=14,
  )
  text = tower | dict(vocab_size=50, max_position_embeddings=8)
  del text["image_size"], text["patch_size"]
  torch.manual_seed(0)
  whole = transformers.SiglipModel(
    transformers.SiglipConfig(text_config=text, vision_config=tower)
  ).eval()
  whole.save_pretrained(tmp_path / "whole")
  names = hf.scan(tmp_path / "whole")
  assert "logit_scale" in names and any("text_model" in n for n in names)
  graphdef, named, options = pali_reference.ours(image=tmp_path / "whole")
  assert options["image_size"] == 42
  # The reference looks at the same 42 pixels of its 47.
  padded = np.pad(images, ((0, 0), (0, 5), (0, 5), (0, 0)))
  theirs = whole.vision_model(pali_reference.pixels(padded)).last_hidden_state
  ours = references.merge(graphdef, named).vit(images)
  difference = np.abs(ours - theirs.detach().numpy()).max()
  compare(
    FAMILY, references.VERSION, "tokens of a SiglipModel", difference, 2e-4
  )


def test_export_is_the_file_that_was_imported(
  pair, images, references, pali_reference, compare, tmp_path
):
  folder, reference, _, named, options = pair
  table = params.table(options, "image")
  config = hf_config.config(options, "image", rows=0)
  references.export(tmp_path / "out", config, table, named, shard_bytes=20_000)
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
  original = references.arrays(folder)
  exported = references.arrays(tmp_path / "out")
  assert exported.keys() == {table.prefix + name for name in original}
  for name, array in original.items():
    np.testing.assert_array_equal(exported[table.prefix + name], array)
  found = convert.ours(hf.scan(tmp_path / "out"), table, named, "out")
  for name, array in convert.load(found, named).items():
    np.testing.assert_array_equal(array, named[name])

  import transformers

  loaded = references.load(transformers.SiglipVisionModel, tmp_path / "out")
  a, b = (
    m(pali_reference.pixels(images)).last_hidden_state
    for m in (reference, loaded)
  )
  compare(
    FAMILY,
    references.VERSION,
    "tokens of our export there",
    float((a - b).detach().abs().max()),
    0,
  )
