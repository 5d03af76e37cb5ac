"""Pictures of mixed shapes against transformers' SigLIP 2 NaFlex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.input import preprocess
from vpd_jax.models import layers, naflex, renames, vit_names

FAMILY = "SigLIP 2 NaFlex"
PATCH, GRID, DEPTH, MAX_PATCHES = 4, 4, 2, 30
# height, width of pictures that become grids of 5 x 6, 2 x 15, 7 x 4 (28: two
# patches of padding) and 1 x 30.
SHAPES = [(50, 60), (10, 75), (90, 50), (1, 400)]
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def pair(references, tmp_path_factory):
  """(reference model, our graphdef, arrays, table of names)."""
  import transformers

  config = transformers.Siglip2VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=DEPTH,
    num_attention_heads=2,
    patch_size=PATCH,
    num_patches=GRID**2,
    vision_use_head=False,
  )
  cls = transformers.Siglip2VisionModel
  folder = tmp_path_factory.mktemp("naflex") / "model"

  def draw(name, shape, rng):
    is_scale = "norm" in name and name.endswith("weight")
    return references.draw(name, shape, rng, is_near_one=is_scale)

  shapes = references.shapes(cls(config))
  references.write(folder, config.to_dict(), shapes, draw)
  options = dict(
    patch_size=PATCH, grid=GRID, width=32, depth=DEPTH, heads=2, mlp_width=48
  )

  def make(**options):
    return naflex.NaFlexViT(rngs=layers.Keys(0), **options)

  ours = references.ours(make, options, [(folder, _table())])
  return references.load(cls, folder), *ours, _table()


@pytest.fixture(scope="module")
def image():
  rng = np.random.default_rng(5)
  pictures = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in SHAPES]
  rows = [preprocess.naflex(p, PATCH, MAX_PATCHES) for p in pictures]
  return naflex.Patches(*(np.stack(part) for part in zip(*rows, strict=True)))


def test_pictures_are_the_hard_cases(image):
  grids = [[5, 6], [2, 15], [7, 4], [1, 30]]
  np.testing.assert_array_equal(image.grid_B2, grids)
  np.testing.assert_array_equal(image.mask_BP.sum(axis=1), [30, 30, 28, 30])


def test_positions(pair, image, references, compare):
  import torch

  reference, _, named, _ = pair
  embeddings = reference.embeddings
  table = embeddings.position_embedding.weight.reshape(GRID, GRID, -1)
  theirs = embeddings.resize_positional_embeddings(
    table, torch.tensor(image.grid_B2), MAX_PATCHES
  )
  ours = jax.jit(naflex.positions, static_argnums=2)(
    named["positions"], image.grid_B2, MAX_PATCHES
  )
  difference = np.abs(ours - theirs.detach().numpy()).max()
  compare(
    FAMILY, references.VERSION, "positions, padding too", difference, 1e-5
  )


def test_tokens(pair, image, references, compare):
  reference, graphdef, named, _ = pair
  theirs = _theirs(reference, image).detach().numpy()
  assert 0.5 < theirs.std() < 2, "tokens are not of unit scale"
  ours = jax.jit(lambda a: references.merge(graphdef, a)(image))(named)
  difference = np.abs(ours - theirs).max()
  compare(FAMILY, references.VERSION, "tokens, padding too", difference, 2e-4)


def test_gradients(pair, image, references, compare):
  import torch

  reference, graphdef, named, table = pair
  weights = np.random.default_rng(6).standard_normal((4, MAX_PATCHES, 32))
  weights = (weights * image.mask_BP[..., None]).astype(np.float32)
  reference.zero_grad()
  (_theirs(reference, image) * torch.tensor(weights)).sum().backward()
  theirs = references.their_gradients(reference, table, named)
  ours = references.gradients(
    lambda model: jnp.sum(model(image) * weights), graphdef, named
  )
  # A softmax does not see what all its scores share.
  worst = references.worst_gradient(ours, theirs, zero=["key/bias"])
  compare(FAMILY, references.VERSION, "gradients, relative", worst, 1e-3)


def test_a_pali_reads_the_tower_and_masks_its_padding(
  pair, image, references, compare, tmp_path
):
  from tests.parity import pali_reference
  from vpd_jax.models.pali import hf_config, model, params

  reference, _, named, _ = pair
  config = reference.config.to_dict()
  options = pali_reference.TEXT | hf_config.options(config)
  assert options["has_naflex_vit"] and options["image_size"] == GRID * PATCH
  table = params.table(options, "image")
  tower = {f"vit/{name}": array for name, array in named.items()}
  written = hf_config.config(options, "image", 0)
  references.export(tmp_path / "out", written, table, tower)
  again = references.load(type(reference), tmp_path / "out")
  graphdef, ours = references.ours(
    model.Model, options, [(tmp_path / "out", table)]
  )
  pali = references.merge(graphdef, ours)
  difference = np.abs(
    np.asarray(pali.vit(image)) - _theirs(again, image).detach().numpy()
  )
  compare(
    FAMILY,
    references.VERSION,
    "tokens, written and read",
    difference.max(),
    2e-4,
  )
  prompt = np.full((4, 3), 5, np.int32)
  rows, mask = jax.jit(lambda i: pali.encode(pali.encode_image(i), prompt))(
    image
  )
  np.testing.assert_array_equal(mask[:, :MAX_PATCHES], image.mask_BP)
  noisy = image.pixels_BPI.copy()
  noisy[2, 28:] = 77  # Padding of the third picture.
  other, _ = pali.encode(
    pali.encode_image(image._replace(pixels_BPI=noisy)), prompt
  )
  keep = np.asarray(mask)
  np.testing.assert_allclose(rows[keep], other[keep], atol=1e-5)


def _theirs(reference, image):
  import torch

  mask = image.mask_BP[..., None]
  pixels = np.where(mask, image.pixels_BPI / np.float32(127.5) - 1, 0)
  return reference(
    torch.tensor(pixels, dtype=torch.float32),
    torch.tensor(image.mask_BP.astype(np.int32)),
    torch.tensor(image.grid_B2),
  ).last_hidden_state


def _table():
  """SigLIP's names; here a patch is projected by a Linear, not a Conv2d."""
  layout = renames.Layout.TRANSPOSED
  return renames.Table(tuple(vit_names.siglip("", "", DEPTH, layout)))
