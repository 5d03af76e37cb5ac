"""T5Gemma 2, whole and its language side alone, against transformers."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpd_jax.decode import beam, loop
from vpd_jax.models.t5gemma2 import hf_config, model, params

FAMILY = "T5Gemma 2"
EOS = 56  # Of beam search: a token that targets often have.
# What differs between the published sizes, and what none of them sets.
VARIANTS = {
  "scanned": dict(),
  "unrolled, linear rope, capped logits": dict(
    is_stretched=True, logit_softcap=3.0
  ),
}
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="module")
def tiny(references):
  """The module that writes tiny reference models."""
  return importlib.import_module("tests.parity.t5gemma2_reference")


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tiny, tmp_path_factory):
  """(variant, folder, reference model, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("t5gemma2") / "model"
  variant = request.param
  reference = tiny.write(folder, **VARIANTS[variant])
  ours = tiny.ours(folder, is_scanned=variant == "scanned")
  return variant, folder, reference, *ours


def ids(rows, length, seed=1):
  """int32[rows, length], padded, each row of another length.

  The token that ends an image is among them: its vector is not as others.
  """
  rng = np.random.default_rng(seed)
  drawn = rng.integers(3, 93, (rows, length)).astype(np.int32)
  drawn[:, 1] = 94
  lengths = rng.integers(length // 3, length + 1, rows)
  return drawn * (np.arange(length)[None] < lengths[:, None])


def images(rows, seed=5):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (rows, 42, 42, 3)).astype(np.uint8)


def reference_inputs(tiny, image, prompt):
  """Keyword arguments of the reference's forward and generate."""
  import torch

  if image is None:
    mask = prompt != 0
    return dict(
      input_ids=torch.tensor(prompt).long(),
      attention_mask=torch.tensor(mask).long(),
    )
  whole = tiny.with_image(prompt)
  pixels = np.moveaxis(image.astype(np.float32) / 127.5 - 1, -1, 1)
  return reference_inputs(tiny, None, whole) | dict(
    pixel_values=torch.tensor(pixels)
  )


def reference_outputs(reference, tiny, image, prompt, target):
  import torch

  labels = torch.tensor(target).long()
  # The reference shifts labels itself, and leaves -100 out of its loss.
  return reference(
    **reference_inputs(tiny, image, prompt),
    labels=labels.masked_fill(labels == 0, -100),
  )


def logits(model, image, prompt, target):
  tokens = None if image is None else model.encode_image(image)
  return model.logits(model.decode(*model.encode(tokens, prompt), target))


def inputs(has_image, rows=3, length=24):
  """Image or None, prompt, target, much longer than the window of 5."""
  image = images(rows) if has_image else None
  return image, ids(rows, length), ids(rows, 20, seed=2)


@pytest.mark.parametrize("has_image", [True, False], ids=["image", "text"])
def test_logits(pair, has_image, tiny, references, compare):
  variant, _, reference, graphdef, named, _ = pair
  image, prompt, target = inputs(has_image)
  theirs = reference_outputs(reference, tiny, image, prompt, target).logits
  theirs = theirs.detach().numpy()
  assert 0.5 < theirs.std() < 2, "logits are not of unit scale"
  found = jax.jit(
    lambda a: logits(references.merge(graphdef, a), image, prompt, target)
  )(named)
  difference = np.abs(found - theirs)[target != 0].max()
  what = f"logits, {'image' if has_image else 'text'}; {variant}"
  compare(FAMILY, references.VERSION, what, difference, 2e-4)


@pytest.mark.parametrize("pair", ["scanned"], indirect=True)
def test_every_option_tells(pair, references):
  """The inputs above are such that a model of another option differs."""
  _, _, _, graphdef, named, options = pair
  given = inputs(True)
  changes = (
    dict(window=4),
    dict(global_every=3),
    dict(rope_base_local=1e4),
    dict(rope_base_global=1e4),
    dict(query_width=16),
    dict(image_start=(2,)),
    dict(end_of_image_id=92),
  )
  others = [nnx.split(model.Model(**(options | c)), nnx.Param) for c in changes]
  base, *found = (
    jax.jit(lambda x, g=g: logits(references.merge(g, x), *given))(named)
    for g in (graphdef, *(other[0] for other in others))
  )
  for change, other in zip(changes, found, strict=True):
    assert np.abs(base - other)[given[2] != 0].max() > 2e-3, change


def test_gradients(pair, references, tiny, compare):
  variant, _, reference, graphdef, named, options = pair
  image, prompt, target = inputs(True)
  reference.zero_grad()
  reference_outputs(reference, tiny, image, prompt, target).loss.backward()
  table = params.table(options, "model")
  theirs = references.their_gradients(reference, table, named)

  def loss(model):
    log_probs = jax.nn.log_softmax(logits(model, image, prompt, target))
    nats = -jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    return jnp.sum(nats * (target != 0)) / np.sum(target != 0)

  ours = references.gradients(loss, graphdef, named)
  # A softmax does not see what all its scores share.
  worst = references.worst_gradient(ours, theirs, zero=("key/bias",))
  assert theirs.keys() == named.keys()
  what = f"gradients, relative; {variant}"
  compare(FAMILY, references.VERSION, what, worst, 1e-3)


@pytest.mark.parametrize("has_image", [True, False], ids=["image", "text"])
def test_greedy_generation(pair, has_image, references, tiny, compare):
  variant, _, reference, graphdef, named, _ = pair
  image, prompt, _ = inputs(has_image, rows=50, length=20)
  tokens = 24
  theirs = reference.generate(
    **reference_inputs(tiny, image, prompt),
    max_new_tokens=tokens,
    do_sample=False,
    num_beams=1,
  ).numpy()[:, 1:]
  theirs = np.pad(theirs, ((0, 0), (0, tokens - theirs.shape[1])))
  ours = jax.jit(
    lambda a: loop.greedy(
      references.merge(graphdef, a),
      image,
      jnp.asarray(prompt),
      max_new_tokens=tokens,
      eos_id=1,
    )
  )(named)
  assert len(np.unique(theirs)) > 20, "too few tokens to tell models apart"
  what = "greedy, tokens of 50 prompts that differ"
  what += f", {'image' if has_image else 'text'}; {variant}"
  differ = np.sum(np.asarray(ours) != theirs)
  compare(FAMILY, references.VERSION, what, differ, 0)


@pytest.mark.parametrize("pair", ["scanned"], indirect=True)
def test_beam_search(pair, references, tiny, compare):
  """Rows of an example share the encoder's keys in the merged softmax."""
  _, _, reference, graphdef, named, _ = pair
  image, prompt, _ = inputs(True, rows=12, length=12)
  options = dict(beams=4, returned=2, max_new_tokens=8, eos_id=EOS)
  options |= dict(length_penalty=0.0)  # Else none would end by itself.
  ours = jax.jit(
    lambda a: beam.search(
      references.merge(graphdef, a), image, jnp.asarray(prompt), **options
    )
  )(named)
  theirs = reference.generate(
    **reference_inputs(tiny, image, prompt),
    max_new_tokens=8,
    do_sample=False,
    eos_token_id=EOS,
    num_beams=4,
    num_return_sequences=2,
    length_penalty=0.0,
    output_scores=True,
    return_dict_in_generate=True,
  )
  has_ended = (theirs.sequences.numpy()[:, 1:] == EOS).any(axis=1)
  assert 0.1 < has_ended.mean(), has_ended.mean()
  scores = theirs.sequences_scores.numpy().reshape(12, 2)
  difference = np.abs(np.asarray(ours.scores) - scores).max()
  compare(FAMILY, references.VERSION, "beam scores", difference, 1e-4)


def test_export_is_the_file_that_was_imported(
  pair, references, tiny, compare, tmp_path
):
  variant, folder, reference, _, named, options = pair
  config = hf_config.config(options, "model", rows=tiny.VOCAB)
  table = params.table(options, "model")
  references.export(tmp_path / "out", config, table, named)
  original = references.arrays(folder)
  exported = references.arrays(tmp_path / "out")
  assert exported.keys() == original.keys()
  for name, array in exported.items():
    np.testing.assert_array_equal(array, original[name], err_msg=name)

  loaded = references.load(type(reference), tmp_path / "out", tiny.TIED)
  given = inputs(True)
  a, b = (
    reference_outputs(m, tiny, *given).logits for m in (reference, loaded)
  )
  difference = float((a - b).detach().abs().max())
  what = f"logits of our export there; {variant}"
  compare(FAMILY, references.VERSION, what, difference, 0)

  # What transformers writes itself leaves out what is as its class has it.
  loaded.save_pretrained(tmp_path / "theirs")
  for written in ("out", "theirs"):
    again = hf_config.options(references.hf.read_config(tmp_path / written))
    assert again == {name: options[name] for name in again}


@pytest.mark.parametrize("pair", ["scanned"], indirect=True)
def test_names_of_older_files(pair, references, tiny, tmp_path):
  """Files of the hub repeat tied arrays and name two modules otherwise."""
  import json

  from safetensors import numpy as st

  _, folder, _, _, named, _ = pair
  arrays = references.arrays(folder)
  first = "model.encoder.text_model.embed_tokens"
  repeated = {
    "lm_head.out_proj.weight": arrays[f"{first}.weight"],
    "model.decoder.embed_tokens.weight": arrays[f"{first}.weight"],
    "model.decoder.embed_tokens.eoi_embedding": arrays[
      f"{first}.eoi_embedding"
    ],
  }
  spelled = {
    name.replace("vision_tower.", "vision_tower.vision_model.").replace(
      "encoder.text_model.", "encoder."
    ): array.copy()
    for name, array in (arrays | repeated).items()
  }
  assert "model.encoder.layers.0.mlp.up_proj.weight" in spelled
  (tmp_path / "old").mkdir()
  st.save_file(spelled, tmp_path / "old" / references.hf.WEIGHTS)
  config = references.hf.read_config(folder)
  (tmp_path / "old" / references.hf.CONFIG).write_text(json.dumps(config))
  _, found, _ = tiny.ours(tmp_path / "old")
  for name, array in named.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
