"""PaliGemma 1 and 2 against transformers."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.checkpoint import hf
from vpd_jax.decode import beam, loop
from vpd_jax.models.paligemma import hf_config, params

FAMILIES = ("PaliGemma 1", "PaliGemma 2")
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def paligemma_reference(references):
  """What makes tiny PaliGemmas, where torch is installed."""
  del references  # Skips where it is not.
  return importlib.import_module("tests.parity.paligemma_reference")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, paligemma_reference, tmp_path_factory):
  """(family, folder, reference model, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("paligemma") / "model"
  reference = paligemma_reference.write(folder, request.param)
  return request.param, folder, reference, *paligemma_reference.ours(folder)


def inputs(rows, length, seed=1):
  """(uint8[rows, 42, 42, 3], int32[rows, length]), prompts padded."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (rows, 42, 42, 3)).astype(np.uint8)
  return images, texts(rows, length, seed)


def texts(rows, length, seed):
  """int32[rows, length], padded, rows of many lengths; without an end."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(2, 96, (rows, length)).astype(np.int32)
  lengths = rng.integers(length // 3, length + 1, rows)
  return ids * (np.arange(length)[None] < lengths[:, None])


def test_logits(pair, references, paligemma_reference, compare):
  family, _, reference, graphdef, named, _ = pair
  (images, prompt), target = inputs(4, 10), texts(4, 14, seed=2)
  outputs = reference(**paligemma_reference.inputs(images, prompt, target))
  theirs = paligemma_reference.logits(outputs, target)
  assert 0.5 < theirs.std() < 2, "logits are not of unit scale"
  ours = jax.jit(
    lambda a: references.merge(graphdef, a)(images, prompt, target)
  )(named)
  difference = np.abs(ours - theirs)[target != 0].max()
  compare(family, references.VERSION, "logits", difference, 2e-4)


@pytest.mark.parametrize("pair", ["PaliGemma 2"], indirect=True)
@pytest.mark.parametrize(
  "change",
  [
    dict(window=None),
    dict(window=7),
    dict(attention_softcap=None),
    dict(logits_softcap=None),
    dict(query_width=None),
  ],
  ids=str,
)
def test_logits_tell_each_option(references, paligemma_reference, pair, change):
  """Parity of an option that does nothing would prove nothing."""
  _, folder, reference, *_ = pair
  graphdef, named, _ = paligemma_reference.ours(folder, **change)
  (images, prompt), target = inputs(4, 10), texts(4, 14, seed=2)
  outputs = reference(**paligemma_reference.inputs(images, prompt, target))
  theirs = paligemma_reference.logits(outputs, target)
  ours = references.merge(graphdef, named)(images, prompt, target)
  assert np.abs(ours - theirs)[target != 0].max() > 0.01


def test_gradients(pair, references, paligemma_reference, compare):
  family, _, reference, graphdef, named, options = pair
  (images, prompt), target = inputs(4, 8), texts(4, 12, seed=2)
  reference.zero_grad()
  given = paligemma_reference.inputs(images, prompt, target)
  reference(**given).loss.backward()
  table = params.table(options, "model")
  theirs = references.their_gradients(reference, table, named)

  def loss(model):
    log_probs = jax.nn.log_softmax(model(images, prompt, target))
    nats = -jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    return jnp.sum(nats * (target != 0)) / np.sum(target != 0)

  ours = references.gradients(loss, graphdef, named)
  assert theirs.keys() == ours.keys()
  # A softmax does not see what all its scores share.
  worst = references.worst_gradient(ours, theirs, zero=["key/bias"])
  compare(family, references.VERSION, "gradients, relative", worst, 1e-3)


def test_greedy_generation(pair, references, paligemma_reference, compare):
  family, _, reference, graphdef, named, _ = pair
  (images, prompt), tokens = inputs(50, 10, seed=3), 24
  given = paligemma_reference.inputs(images, prompt)
  theirs = reference.generate(
    **given, max_new_tokens=tokens, do_sample=False, num_beams=1
  ).numpy()[:, given["input_ids"].shape[1] :]
  theirs = np.pad(theirs, ((0, 0), (0, tokens - theirs.shape[1])))
  ours = jax.jit(
    lambda a: loop.greedy(
      references.merge(graphdef, a),
      images,
      jnp.asarray(prompt),
      max_new_tokens=tokens,
      eos_id=1,
    )
  )(named)
  assert len(np.unique(theirs)) > 20, "too few tokens to tell models apart"
  compare(
    family,
    references.VERSION,
    "greedy, tokens of 50 prompts that differ",
    np.sum(np.asarray(ours) != theirs),
    0,
  )


def test_beam_scores(pair, references, paligemma_reference, compare):
  """Beams share their prefix's keys here, and have copies there."""
  family, _, reference, graphdef, named, _ = pair
  (images, prompt), tokens = inputs(8, 10, seed=4), 10
  given = paligemma_reference.inputs(images, prompt)
  theirs = reference.generate(
    **given,
    max_new_tokens=tokens,
    do_sample=False,
    num_beams=3,
    num_return_sequences=3,
    output_scores=True,
    return_dict_in_generate=True,
  )
  ours = jax.jit(
    lambda a: beam.search(
      references.merge(graphdef, a),
      images,
      jnp.asarray(prompt),
      max_new_tokens=tokens,
      eos_id=1,
      beams=3,
      returned=3,
    )
  )(named)
  found = theirs.sequences.numpy()[:, given["input_ids"].shape[1] :]
  found = np.pad(found, ((0, 0), (0, tokens - found.shape[1])))
  np.testing.assert_array_equal(ours.tokens.reshape(24, -1), found)
  difference = np.abs(
    ours.scores.reshape(-1) - theirs.sequences_scores.numpy()
  ).max()
  compare(family, references.VERSION, "beam scores", difference, 1e-4)


def test_export_is_the_file_that_was_imported(
  pair, references, paligemma_reference, compare, tmp_path
):
  import transformers

  family, folder, reference, _, named, options = pair
  table = params.table(options, "model")
  config = hf_config.config(options, "model", paligemma_reference.VOCAB)
  references.export(tmp_path / "out", config, table, named, shard_bytes=40_000)
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
  original = references.arrays(folder)
  exported = references.arrays(tmp_path / "out")
  assert exported.keys() == original.keys()
  for name, array in exported.items():
    np.testing.assert_array_equal(array, original[name], err_msg=name)
  assert hf_config.options(hf.read_config(tmp_path / "out")) == options
  loaded = references.load(
    transformers.PaliGemmaForConditionalGeneration,
    tmp_path / "out",
    paligemma_reference.TIED,
  )
  (images, prompt), target = inputs(3, 10), texts(3, 8, seed=2)
  given = paligemma_reference.inputs(images, prompt, target)
  a, b = (m(**given).logits.detach() for m in (reference, loaded))
  compare(
    family,
    references.VERSION,
    "logits of our export there",
    float((a - b).abs().max()),
    0,
  )


@pytest.mark.parametrize("version", ["4.52", "4.41, and on the hub"])
def test_names_of_older_files(paligemma_reference, tmp_path, version):
  # The class loads them too, which shows that such files have these names.
  reference = paligemma_reference.write(
    tmp_path / "model", "PaliGemma 1", version=version
  )
  _, named, _ = paligemma_reference.ours(tmp_path / "model")
  np.testing.assert_array_equal(
    named["embedding/table"], reference.lm_head.weight.detach().numpy()
  )


def test_all_layers_global(references, paligemma_reference, tmp_path, compare):
  """No window, as in big_vision: written and read, and equal there."""
  folder = tmp_path / "model"
  family = "PaliGemma 2"
  kinds = ["full_attention"] * 3
  reference = paligemma_reference.write(folder, family, layer_types=kinds)
  graphdef, named, options = paligemma_reference.ours(folder)
  assert options["window"] is None
  written = hf_config.config(options, "model", paligemma_reference.VOCAB)
  assert hf_config.options(written) == options
  (images, prompt), target = inputs(4, 10), texts(4, 14, seed=2)
  outputs = reference(**paligemma_reference.inputs(images, prompt, target))
  theirs = paligemma_reference.logits(outputs, target)
  ours = references.merge(graphdef, named)(images, prompt, target)
  difference = np.abs(ours - theirs)[target != 0].max()
  compare(family, references.VERSION, "logits, no window", difference, 2e-4)
