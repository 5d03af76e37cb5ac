"""BLIP-2 against transformers: each part, both models, and BERT's LM."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.checkpoint import hf
from vpd_jax.decode import loop
from vpd_jax.models.blip2 import hf_config, model, params, vision

FAMILIES = ("BLIP-2 Flan-T5", "BLIP-2, tanh GELU")
RETRIEVAL = "BLIP-2 ITC, ITM"
# A softmax does not see what all its scores share.
ZERO = ("attention/key/bias", "cross/key/bias")
pytestmark = pytest.mark.usefixtures("references")


@pytest.fixture(scope="session")
def blip2(references):
  """The module that makes tiny BLIP-2s."""
  return importlib.import_module("tests.parity.blip2_reference")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, blip2, tmp_path_factory):
  """(family, folder, reference model, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("blip2") / "model"
  reference = blip2.write_generation(folder, request.param)
  return request.param, folder, reference, *blip2.ours(folder)


@pytest.fixture(scope="module")
def flan(blip2, tmp_path_factory):
  """As `pair`, of one family: for what does not depend on it."""
  folder = tmp_path_factory.mktemp("blip2") / "model"
  reference = blip2.write_generation(folder, FAMILIES[0])
  return FAMILIES[0], folder, reference, *blip2.ours(folder)


@pytest.fixture(scope="module", params=[None, 95])
def retrieval(request, blip2, tmp_path_factory):
  """(image_token_index, folder, reference, our graphdef, arrays, options)."""
  folder = tmp_path_factory.mktemp("itm") / "model"
  reference = blip2.write_retrieval(folder, request.param)
  ours = blip2.ours(folder, "retrieval", has_lm_head=True)
  return request.param, folder, reference, *ours


@pytest.fixture(scope="module")
def itm(blip2, tmp_path_factory):
  """(reference, our graphdef, arrays, options), without an image token."""
  folder = tmp_path_factory.mktemp("itm") / "model"
  reference = blip2.write_retrieval(folder)
  return reference, *blip2.ours(folder, "retrieval", has_lm_head=True)


def images(rows, size=42, seed=5):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (rows, size, size, 3)).astype(np.uint8)


def texts(rows, length, seed=1):
  """int32[rows, length], padded, each row of another length."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(2, 95, (rows, length)).astype(np.int32)
  lengths = rng.integers(length // 3, length + 1, rows)
  return ids * (np.arange(length)[None] < lengths[:, None])


def apply(references, graphdef, named, function):
  """function(model), compiled."""
  return jax.jit(lambda a: function(references.merge(graphdef, a)))(named)


def difference(ours, theirs):
  theirs = theirs.detach().numpy()
  assert ours.shape == theirs.shape
  assert 0.05 < theirs.std() < 3, "not of unit scale"
  return np.abs(np.asarray(ours) - theirs).max()


def test_image_tokens(flan, blip2, references, compare):
  family, _, reference, graphdef, named, _ = flan
  pixels = images(3)
  theirs = reference.vision_model(blip2.pixels(pixels)).last_hidden_state
  ours = apply(references, graphdef, named, lambda m: m.vit(pixels))
  found = difference(ours, theirs)
  compare(family, references.VERSION, "image tokens", found, 2e-4)


@pytest.mark.parametrize("size", [28, 70])
def test_image_tokens_of_another_size(size, flan, blip2, references, compare):
  family, folder, reference, _, named, _ = flan
  pixels = images(2, size)
  theirs = reference.vision_model(
    blip2.pixels(pixels), interpolate_pos_encoding=True
  ).last_hidden_state
  positions = vision.resize_positions(named["vit/positions"], size // 14)
  options = hf_config.options(hf.read_config(folder)) | dict(image_size=size)
  graphdef = references.ours(model.Model, options, [])[0]
  resized = named | {"vit/positions": positions}
  ours = apply(references, graphdef, resized, lambda m: m.vit(pixels))
  found = difference(ours, theirs)
  what = f"image tokens, {size} pixels of 42"
  compare(family, references.VERSION, what, found, 2e-4)


def test_queries(flan, references, compare):
  import torch

  family, _, reference, graphdef, named, _ = flan
  tokens = np.random.default_rng(3).standard_normal((3, 10, 40))
  tokens = tokens.astype(np.float32)
  theirs = reference.qformer(
    query_embeds=reference.query_tokens.expand(3, -1, -1),
    encoder_hidden_states=torch.tensor(tokens),
  ).last_hidden_state
  ours = apply(
    references, graphdef, named, lambda m: m.qformer.see(tokens).hidden_BQD
  )
  found = difference(ours, theirs)
  compare(family, references.VERSION, "queries", found, 2e-4)


def test_logits(pair, blip2, references, compare):
  import torch

  family, _, reference, graphdef, named, _ = pair
  pixels, prompt, target = images(4), texts(4, 10), texts(4, 12, seed=2)
  theirs = reference(
    **blip2.generation_inputs(pixels, prompt),
    labels=torch.tensor(target).long(),
  ).logits
  ours = apply(references, graphdef, named, lambda m: m(pixels, prompt, target))
  found = difference(ours, theirs)
  compare(family, references.VERSION, "logits", found, 2e-4)


def test_exact_gelu_is_told_from_tanh(pair, blip2, references):
  """Or the two families above would be one."""
  family, _, _, graphdef, named, options = pair
  pixels, prompt, target = images(2), texts(2, 10), texts(2, 12, seed=2)
  changed = options | {"is_gelu_exact": not options["is_gelu_exact"]}
  other = references.ours(model.Model, changed, [])[0]
  a, b = (
    apply(references, g, named, lambda m: m(pixels, prompt, target))
    for g in (graphdef, other)
  )
  assert options["is_gelu_exact"] == (family == "BLIP-2 Flan-T5")
  assert np.abs(np.asarray(a - b)).max() > 4e-4


def test_gradients(flan, blip2, references, compare):
  import torch

  family, _, reference, graphdef, named, options = flan
  pixels, prompt, target = images(4), texts(4, 10), texts(4, 8, seed=2)
  labels = torch.tensor(target).long()
  reference.zero_grad()
  reference(
    **blip2.generation_inputs(pixels, prompt),
    labels=labels.masked_fill(labels == 0, -100),
  ).loss.backward()
  table = params.table(options, "model")
  theirs = references.their_gradients(reference, table, named)

  def loss(ours):
    log_probs = jax.nn.log_softmax(ours(pixels, prompt, target))
    nats = -jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    return jnp.sum(nats * (target != 0)) / np.sum(target != 0)

  ours = references.gradients(loss, graphdef, named)
  worst = references.worst_gradient(ours, theirs, ZERO)
  compare(family, references.VERSION, "gradients, relative", worst, 1e-3)


def test_greedy_generation(flan, blip2, references, compare):
  family, _, reference, graphdef, named, _ = flan
  pixels, prompt, tokens = images(50), texts(50, 12), 24
  theirs = reference.generate(
    **blip2.generation_inputs(pixels, prompt),
    max_new_tokens=tokens,
    do_sample=False,
    num_beams=1,
  ).numpy()[:, 1:]
  theirs = np.pad(theirs, ((0, 0), (0, tokens - theirs.shape[1])))
  ours = apply(
    references,
    graphdef,
    named,
    lambda m: loop.greedy(
      m, pixels, jnp.asarray(prompt), max_new_tokens=tokens, eos_id=1
    ),
  )
  assert len(np.unique(theirs)) > 20, "too few tokens to tell models apart"
  compare(
    family,
    references.VERSION,
    "greedy, tokens of 50 prompts that differ",
    np.sum(np.asarray(ours) != theirs),
    0,
  )


def test_export_is_the_file_that_was_imported(
  pair, blip2, references, compare, tmp_path
):
  import transformers

  family, folder, reference, _, named, options = pair
  config = hf_config.config(options, "model", rows=96)
  table = params.table(options, "model")
  references.export(tmp_path / "out", config, table, named)
  check_same_arrays(references, folder, tmp_path / "out")
  again = hf_config.options(hf.read_config(tmp_path / "out"))
  assert again == options
  loaded = references.load(
    transformers.Blip2ForConditionalGeneration, tmp_path / "out", blip2.TIED
  )
  given = blip2.generation_inputs(images(3), texts(3, 10))
  given["decoder_input_ids"] = given["input_ids"][:, 5:]
  a, b = (m(**given).logits for m in (reference, loaded))
  found = float((a - b).detach().abs().max())
  compare(family, references.VERSION, "logits of our export there", found, 0)


def check_same_arrays(references, folder, exported):
  original, written = (references.arrays(f) for f in (folder, exported))
  assert written.keys() == original.keys()
  for name, array in written.items():
    np.testing.assert_array_equal(array, original[name], err_msg=name)


def test_match_logits(retrieval, blip2, references, compare):
  token, _, reference, graphdef, named, _ = retrieval
  pixels, text = images(4), texts(4, 10)
  theirs = reference(
    **blip2.retrieval_inputs(pixels, text, token),
    use_image_text_matching_head=True,
  ).logits_per_image
  ours = apply(
    references,
    graphdef,
    named,
    lambda m: m.match_logits(m.encode_image(pixels), text),
  )
  found = difference(ours, theirs)
  what = f"ITM logits, image_token_index {token}"
  compare(RETRIEVAL, references.VERSION, what, found, 2e-4)


def test_features_and_similarity(retrieval, blip2, references, compare):
  token, _, reference, graphdef, named, _ = retrieval
  pixels, text = images(3), texts(5, 10)
  given = blip2.retrieval_inputs(pixels, text, token)
  theirs = reference(**given, use_image_text_matching_head=False)

  def features(ours):
    queries = ours.see(ours.encode_image(pixels))
    a, b = ours.image_features(queries), ours.text_features(text)
    return a, b, ours.similarity(a, b)

  ours = apply(references, graphdef, named, features)
  for what, a, b in (
    ("image features", ours[0], theirs.image_embeds),
    ("text features", ours[1], theirs.text_embeds),
    ("ITC similarity", ours[2], theirs.logits_per_image),
  ):
    what = f"{what}, image_token_index {token}"
    compare(RETRIEVAL, references.VERSION, what, difference(a, b), 2e-4)


def test_gradients_of_retrieval(itm, blip2, references, compare):
  import torch

  reference, graphdef, named, options = itm
  pixels, text = images(4), texts(4, 10)
  rng = np.random.default_rng(9)
  weights = [
    rng.standard_normal(shape).astype(np.float32) for shape in ((4, 2), (4, 4))
  ]
  given = blip2.retrieval_inputs(pixels, text)
  reference.zero_grad()
  for has_head, weight in zip((True, False), weights, strict=True):
    scores = reference(**given, use_image_text_matching_head=has_head)
    (scores.logits_per_image * torch.tensor(weight)).sum().backward()
  table = params.table(options, "retrieval")
  theirs = references.their_gradients(reference, table, named)

  def loss(ours):
    tokens = ours.encode_image(pixels)
    cosines = ours.similarity(
      ours.image_features(ours.see(tokens)), ours.text_features(text)
    )
    match = ours.match_logits(tokens, text)
    return jnp.sum(match * weights[0]) + jnp.sum(cosines * weights[1])

  ours = references.gradients(loss, graphdef, named)
  worst = references.worst_gradient(ours, theirs, ZERO)
  compare(RETRIEVAL, references.VERSION, "gradients, relative", worst, 1e-3)


def test_lm_logits_are_those_of_a_bert_with_the_queries_cached(
  itm, blip2, references, compare
):
  import torch

  _, graphdef, named, options = itm
  rng = np.random.default_rng(11)
  named = named | {
    name: references.draw(name, array.shape, rng, name.endswith("scale"))
    for name, array in named.items()
    if name.startswith("lm_head/")
  }
  pixels, target = images(3), texts(3, 9) + 1

  def forward(ours):
    queries = ours.see(ours.encode_image(pixels))
    return queries.prefix, ours.lm_logits(queries, target)

  prefix, ours = apply(references, graphdef, named, forward)
  bert = blip2.bert(named, depth=options["qformer_depth"])
  inputs = np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=95)
  theirs = bert(
    input_ids=torch.tensor(inputs).long(),
    past_key_values=blip2.cache(prefix),
    position_ids=torch.arange(9)[None].expand(3, -1),
  ).logits
  found = difference(ours, theirs)
  name = f"{references.VERSION}, BertLMHeadModel"
  compare("BLIP-2 LM", name, "logits", found, 2e-4)


def test_export_of_retrieval(retrieval, blip2, references, compare, tmp_path):
  import transformers

  token, folder, reference, _, named, options = retrieval
  table = params.table(options, "retrieval")
  config = hf_config.config(options, "retrieval", rows=96)
  references.export(tmp_path / "out", config, table, named)
  check_same_arrays(references, folder, tmp_path / "out")
  again = hf_config.retrieval_options(hf.read_config(tmp_path / "out"))
  assert again | {"has_lm_head": True} == options
  loaded = references.load(
    transformers.Blip2ForImageTextRetrieval, tmp_path / "out"
  )
  given = blip2.retrieval_inputs(images(3), texts(3, 10), token)
  worst = 0.0
  for has_head in (False, True):
    a, b = (
      m(**given, use_image_text_matching_head=has_head).logits_per_image
      for m in (reference, loaded)
    )
    worst = max(worst, float((a - b).detach().abs().max()))
  what = f"logits of our export there, image_token_index {token}"
  compare(RETRIEVAL, references.VERSION, what, worst, 0)
