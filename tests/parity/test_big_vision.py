"""SigLIP and PaliGemma against google-research/big_vision's own modules.

big_vision is not packaged: put a checkout on the path, and what its models
import (einops, flax, ml_collections, orbax-checkpoint, tensorflow's gfile):

    git clone https://github.com/google-research/big_vision
    PYTHONPATH=big_vision python -m pytest tests/parity/test_big_vision.py
"""

import contextlib
import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax import step, trees
from vpd_jax.checkpoint import big_vision, convert, families

REFERENCE = "big_vision"
PATCHES = 9  # Of an image: 42 pixels in patches of 14.
TOWER = dict(width=24, depth=2, mlp_dim=40, num_heads=2, patch_size=(14, 14))
TEXT = dict(width=32, depth=3, mlp_dim=48, num_heads=4, head_dim=16)
# family -> (big_vision's variant, what is not as in TEXT). Its own options
# stay; caps are so low that they matter to scores and logits of unit scale.
CAPS = dict(attn_logits_softcap=2.0, final_logits_softcap=3.0)
FAMILIES = {
  "PaliGemma 1": ("gemma_2b", dict(num_kv_heads=1)),
  "PaliGemma of Gemma 7B": ("gemma_7b", dict(num_kv_heads=4)),
  "PaliGemma 2": ("gemma2_2b", dict(num_kv_heads=2) | CAPS),
  "PaliGemma 2 28B": (
    "gemma2_27b",
    dict(num_kv_heads=2, head_dim=128) | CAPS,
  ),
}
pytestmark = pytest.mark.big_vision


@pytest.fixture(scope="module")
def modules():
  """Its modules by name, where it is installed."""
  return {
    name: pytest.importorskip(
      f"big_vision.models.{name}",
      reason="needs a checkout of big_vision on the path, see the docstring",
      exc_type=ImportError,
    )
    for name in ("vit", "ppp.gemma", "proj.paligemma.paligemma")
  }


@contextlib.contextmanager
def their_rules():
  """It promotes ranks and dtypes, and means to."""
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


@contextlib.contextmanager
def tiny_variant(gemma, config):
  """Whatever its variant is called, it is this one."""
  with pytest.MonkeyPatch.context() as patch, their_rules():
    patch.setattr(gemma, "get_config", lambda _: copy.deepcopy(config))
    yield


def redraw(params):
  """Random arrays of unit-scale products; none is 0 or 1 as at the start."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    noise = rng.standard_normal(x.shape).astype(np.float32)
    if "llm" in name and "norm" in name:
      return 0.5 * noise
    if name.endswith("scale"):
      return 1 + 0.3 * noise
    if name.endswith("bias") or "pos_embedding" in name:
      return 0.5 * noise
    if "input_embedding" in name:
      return noise * np.float32(x.shape[-1] ** -0.5)
    # Of a kernel, axes that are summed over; one in front is of layers.
    is_scanned = "llm/layers" in name or "/encoderblock/" in name
    shape = x.shape[1:] if is_scanned else x.shape
    if "attn_vec" in name or name.endswith("out/kernel"):
      summed = shape[:-1]
    elif "einsum" in name:
      summed = shape[-2:-1]
    elif name.endswith("embedding/kernel"):
      summed = shape[:-1]
    else:
      summed = shape[:1]
    return noise * np.float32(np.prod(summed) ** -0.5)

  return jax.tree_util.tree_map_with_path(draw, params)


def save(path, params):
  """As big_vision saves them: one .npz, names with slashes."""
  named = trees.flatten_with_names(params)
  np.savez(path, **{f"params/{n}": np.asarray(x) for n, x in named.items()})
  return big_vision.scan(path)


def load(family, part, path, **changes):
  """(our model, its table, our name -> array) of an .npz."""
  source = big_vision.scan(path)
  params = families.module(family, "params")
  read = params.big_vision_options({n: x.shape for n, x in source.items()})
  options = read | changes
  shapes = families.Shapes(family, options)
  table = params.big_vision(options, part)
  found = convert.ours(source, table, shapes.named, path)
  named = convert.load(found, shapes.named)
  named |= shapes.fresh([name for name in shapes.named if name not in named])

  def merge(named):
    tree = trees.unflatten_like(shapes.tree, named)
    return step.merge(shapes.graphdef, tree)

  return merge, table, named


def images(rows=3):
  rng = np.random.default_rng(5)
  return rng.integers(0, 256, (rows, 42, 42, 3)).astype(np.uint8)


def pixels(images):
  return images.astype(np.float32) / np.float32(127.5) - 1


@pytest.mark.parametrize("is_scanned", [False, True])
def test_siglip(modules, compare, tmp_path, is_scanned):
  tower = modules["vit"].Model(
    num_classes=None, pool_type="map", scan=is_scanned, **TOWER
  )
  with their_rules():
    params = tower.init(jax.random.key(0), pixels(images()))["params"]
    params = redraw({"img": params})
    theirs = tower.apply({"params": params["img"]}, pixels(images()))[1]
  save(tmp_path / "siglip.npz", params)
  text = dict(
    vocab_size=96,
    width=24,
    heads=2,
    head_width=8,
    mlp_width=16,
    encoder_depth=1,
    decoder_depth=1,
  )
  merge, _, named = load("pali", "image", tmp_path / "siglip.npz", **text)
  ours = jax.jit(lambda a: merge(a).vit(images()))(named)
  difference = np.abs(ours - theirs["encoded"]).max()
  name = "scanned" if is_scanned else "unrolled"
  compare("SigLIP", REFERENCE, f"image tokens, {name}", difference, 2e-4)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, modules, tmp_path_factory):
  """(family, (params, inputs) -> theirs, params, path, inputs)."""
  variant, changes = FAMILIES[request.param]
  gemma = modules["ppp.gemma"]
  config = gemma.get_config(variant)
  caps = {n: changes[n] for n in CAPS if n in changes}
  config.update(TEXT | {n: x for n, x in changes.items() if n not in CAPS})
  assert set(changes) <= set(config), "an option is not called so"
  model = modules["proj.paligemma.paligemma"].Model(
    img=dict(pool_type="none", scan=True, head_zeroinit=False, **TOWER),
    llm=dict(variant=variant, vocab_size=96, **caps),
  )

  def apply(params, image, text, mask_ar):
    with tiny_variant(gemma, config):
      return model.apply({"params": params}, image, text, mask_ar)[1]

  inputs = sequences()
  given = pixels(images()), inputs["text"], inputs["mask_ar"]
  with tiny_variant(gemma, config):
    params = model.init(jax.random.key(0), *given)["params"]
  params = redraw(params)
  path = tmp_path_factory.mktemp("big_vision") / "paligemma.npz"
  save(path, params)
  return request.param, apply, params, path, inputs


def sequences():
  """Prompts and targets, and both as its one sequence without a gap."""
  rng = np.random.default_rng(6)
  lengths, tokens = (7, 4, 5), 8
  prompt = np.zeros((3, 7), np.int32)
  target = rng.integers(2, 96, (3, tokens)).astype(np.int32)
  text = np.zeros((3, 7 + tokens), np.int32)
  mask_ar = np.ones_like(text)
  for row, length in enumerate(lengths):
    prompt[row, :length] = rng.integers(2, 96, length)
    text[row, : length + tokens] = [*prompt[row, :length], *target[row]]
    mask_ar[row, :length] = 0
  # Of the whole sequence, what predicts each target token.
  at = PATCHES + np.array(lengths)[:, None] - 1 + np.arange(tokens)
  return dict(prompt=prompt, target=target, text=text, mask_ar=mask_ar, at=at)


def test_paligemma_logits(pair, compare):
  family, apply, params, path, inputs = pair
  given = pixels(images()), inputs["text"], inputs["mask_ar"]
  theirs = jax.jit(apply)(params, *given)
  merge, _, named = load("paligemma", "model", path, **low_caps(family))

  @jax.jit
  def ours(named):
    model = merge(named)
    tokens = model.encode_image(images())
    encoded = model.encode(tokens, inputs["prompt"])
    hidden = model.decode(*encoded, inputs["target"])
    return tokens, model.logits(hidden), model.embedding.scores(hidden)

  tokens, logits, uncapped = ours(named)
  difference = np.abs(tokens - theirs["img/zimg"]).max()
  compare(family, REFERENCE, "image tokens", difference, 2e-4)
  at = inputs["at"][..., None]
  expected = np.take_along_axis(np.asarray(theirs["llm/logits"]), at, axis=1)
  assert 0.5 < expected.std() < 2, "logits are not of unit scale"
  difference = np.abs(logits - expected).max()
  compare(family, REFERENCE, "logits", difference, 2e-4)
  # What it trains on has no cap; that is for decoding alone.
  text = np.asarray(theirs["text_logits"])
  expected = np.take_along_axis(text, at - PATCHES, axis=1)
  difference = np.abs(uncapped - expected).max()
  compare(family, REFERENCE, "logits before a cap", difference, 2e-4)


def test_paligemma_gradients(pair, compare, tmp_path):
  family, apply, params, path, inputs = pair
  target = inputs["target"]

  def xent(logits):
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_probs, target[..., None], -1))

  def their_loss(params):
    given = pixels(images()), inputs["text"], inputs["mask_ar"]
    logits = apply(params, *given)["llm/logits"]
    return xent(jnp.take_along_axis(logits, inputs["at"][..., None], axis=1))

  theirs = save(tmp_path / "grads.npz", jax.jit(jax.grad(their_loss))(params))
  merge, table, named = load("paligemma", "model", path, **low_caps(family))

  @jax.jit
  @jax.grad
  def our_gradients(named):
    return xent(merge(named)(images(), inputs["prompt"], target))

  ours = our_gradients(named)
  worst = 0.0
  found = convert.ours(theirs, table, named, "gradients")
  assert found.keys() == ours.keys()
  for name, array in found.items():
    expected = array.whole()
    scale = np.abs(expected).max()
    if name.endswith("key/bias"):  # A softmax does not see a common shift.
      assert scale < 1e-4
      continue
    assert scale > 1e-5, f"{name} has no gradient: a dead path"
    worst = max(worst, np.abs(ours[name] - expected).max() / scale)
  compare(family, REFERENCE, "gradients, relative", worst, 1e-3)


def test_paligemma_there_and_back(pair):
  family, _, _, path, _ = pair
  _, table, named = load("paligemma", "model", path, **low_caps(family))
  wrapped = {n: convert.in_memory(x, n) for n, x in named.items()}
  back = convert.theirs(wrapped, table)
  original = big_vision.scan(path)
  assert back.keys() == original.keys()
  for name, array in back.items():
    np.testing.assert_array_equal(array.whole(), original[name].whole())


def low_caps(family):
  """Options of ours that no file tells; they are CAPS's."""
  if "2" not in family:
    return {}
  return dict(attention_softcap=2.0, logits_softcap=3.0)
