"""BLIP-2: laws of both models; names, sizes and foreign config.json files."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import compiled, tiny
from vpd_jax import step, trees
from vpd_jax.input import preprocess
from vpd_jax.models import layers
from vpd_jax.models.blip2 import (
  hf_config,
  model,
  params,
  qformer,
  retrieval,
  sizes,
  vision,
)

VOCAB = 40
pytestmark = pytest.mark.usefixtures("strict_dtypes")


def made(cls, size, **changes):
  """A random model, norms and biases too, by (graphdef, params)."""
  options = {"vocab_size": VOCAB} | sizes.get(size) | changes
  return tiny.drawn(lambda: cls(**options))


@pytest.fixture(scope="module")
def writer():
  return compiled.Compiled(step.merge(*made(model.Model, "debug")))


@pytest.fixture(scope="module")
def matcher():
  parts = made(retrieval.Retrieval, "debug_itm", has_lm_head=True)
  return compiled.Compiled(step.merge(*parts))


def images(rows=2, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, 256, (rows, 32, 32, 3)), jnp.uint8)


def texts(rows=2, length=7, seed=1):
  """Padded at the end, but for the first row."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(2, VOCAB, (rows, length))
  lengths = np.r_[length, rng.integers(3, length, rows - 1)]
  return jnp.asarray(ids * (np.arange(length) < lengths[:, None]), jnp.int32)


def is_far(a, b):
  return float(jnp.abs(a - b).max()) > 1e-3


# What writes.


def test_padding_of_the_prompt_changes_nothing(writer):
  image, prompt, target = images(), texts(), texts(seed=2)
  padded = jnp.pad(prompt, ((0, 0), (0, 5)))
  np.testing.assert_allclose(
    writer(image, prompt, target), writer(image, padded, target), atol=1e-5
  )


def test_image_and_prompt_are_both_read(writer):
  image, prompt, target = images(), texts(), texts(seed=2)
  logits = writer(image, prompt, target)
  assert is_far(logits, writer(255 - image, prompt, target))
  assert is_far(logits, writer(image, prompt[::-1], target))


def test_an_image_is_as_many_tokens_as_there_are_queries(writer):
  encode = functools.partial(writer.model.encode_image, dtype=jnp.bfloat16)
  tokens = jax.jit(encode)(images())
  assert (tokens.shape, tokens.dtype) == ((2, 3, 16), jnp.bfloat16)
  encoded, mask = writer.encode(tokens, texts())
  assert (encoded.shape, encoded.dtype) == ((2, 3 + 7, 16), jnp.bfloat16)
  assert mask.sum() == 2 * 3 + (texts() != 0).sum()


def test_cached_decoding_is_the_full_forward(writer):
  image, prompt, target = images(), texts(), texts(4, 6, seed=2)
  encoded = writer.encode(writer.encode_image(image), prompt)
  # Two targets of each example.
  logits_RTV = writer.logits(writer.decode(*encoded, target))
  context = writer.context(*encoded)
  cache = writer.init_cache(4, 6)
  token = jnp.full((4,), writer.start_id, jnp.int32)
  for position in range(6):
    logits_RV, cache = writer.decode_next(
      token, jnp.asarray(position), context, cache
    )
    np.testing.assert_allclose(logits_RV, logits_RTV[:, position], atol=1e-5)
    token = target[:, position]


def test_scanned_blocks_are_unrolled_blocks():
  options = dict(vit_depth=2, qformer_depth=4)
  graphdef, params = made(model.Model, "debug", **options)
  options |= dict(is_scanned=True, remat="full", vit_remat="dots")
  scanned, same = made(model.Model, "debug", **options)
  assert jax.tree.structure(params) == jax.tree.structure(same)
  a, b = (
    jax.jit(lambda p, g=g: step.merge(g, p).encode_image(images()))(params)
    for g in (graphdef, scanned)
  )
  np.testing.assert_allclose(a, b, atol=1e-5)


def test_gelu_can_be_exact(writer):
  graphdef, params = made(model.Model, "debug", is_gelu_exact=True)
  given = images(), texts(), texts(seed=2)
  exact = compiled.Compiled(step.merge(graphdef, params))(*given)
  usual = writer(*given)
  assert 1e-5 < float(jnp.abs(exact - usual).max()) < 0.1
  with pytest.raises(ValueError, match="is_gelu_exact=True, but mlp='relu'"):
    made(model.Model, "debug", is_gelu_exact=True, mlp="relu")


# What reads and matches.


def test_padding_of_a_text_changes_nothing(matcher):
  image, text = images(), texts()
  padded = jnp.pad(text, ((0, 0), (0, 5)))
  tokens = matcher.encode_image(image)
  for function in (
    matcher.text_features,
    functools.partial(matcher.match_logits, tokens),
  ):
    a, b = function(text), function(padded)
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert is_far(a, function(padded.at[:, 8].set(5)))


def test_features_have_length_1_and_similarity_is_that_of_the_best(matcher):
  queries = matcher.see(matcher.encode_image(images()))
  image, text = matcher.image_features(queries), matcher.text_features(texts(3))
  for features in (image, text):
    lengths = jnp.linalg.norm(features, axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
  by_hand = np.einsum("bqe,re->brq", image, text).max(-1)
  found = matcher.similarity(image, text)
  assert found.shape == (2, 3)
  np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_image_and_text_are_both_matched(matcher):
  tokens, text = matcher.encode_image(images()), texts()
  logits = matcher.match_logits(tokens, text)
  assert (logits.shape, logits.dtype) == ((2, 2), jnp.float32)
  assert is_far(logits, matcher.match_logits(tokens[::-1], text))
  assert is_far(logits, matcher.match_logits(tokens, text[::-1]))


def test_texts_of_one_image_are_images_of_their_own(matcher):
  image, text = images(), texts(6)
  many = matcher.encode_image(jnp.repeat(image, 3, axis=0))
  few = matcher.encode_image(image)
  np.testing.assert_allclose(
    matcher.match_logits(few, text),
    matcher.match_logits(many, text),
    atol=1e-5,
  )
  np.testing.assert_allclose(
    matcher.lm_logits(matcher.see(few), text),
    matcher.lm_logits(matcher.see(many), text),
    atol=1e-5,
  )


def test_a_written_token_changes_only_what_comes_after_it(matcher):
  queries = matcher.see(matcher.encode_image(images()))
  target = texts()
  changed = target.at[:, 3].set((target[:, 3] + 1) % VOCAB)
  a, b = (matcher.lm_logits(queries, t) for t in (target, changed))
  # The token at 3 is the input at 4.
  np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-6)
  assert is_far(a[:, 4:], b[:, 4:])
  other = matcher.see(matcher.encode_image(images()[::-1]))
  assert is_far(a, matcher.lm_logits(other, target))


def test_writing_after_seeing_is_one_pass_over_both(matcher):
  """With queries blind to the text, whose first token is `start_id`.

  q q t t t
  1 1 0 0 0
  1 1 0 0 0
  1 1 1 0 0
  1 1 1 1 0
  1 1 1 1 1
  """
  former, tokens = matcher.qformer, matcher.encode_image(images())
  text_BTD = matcher.embedding(texts())
  write = jax.jit(former.write)
  queries = matcher.see(tokens)
  count, length = queries.hidden_BQD.shape[1], text_BTD.shape[1]
  mask = np.tril(np.ones((count + length, count + length), bool))
  mask[:count, :count] = True
  x = jnp.broadcast_to(former.queries[...][None], queries.hidden_BQD.shape)
  x = former.norm(jnp.concatenate([x, text_BTD], axis=1))
  run = jax.jit(former._run, static_argnums=1)
  both, _ = run(x, count, jnp.asarray(mask)[None], tokens, None)
  written = write(queries, text_BTD)
  np.testing.assert_allclose(both[:, :count], queries.hidden_BQD, atol=1e-5)
  np.testing.assert_allclose(both[:, count:], written, atol=1e-5)
  inputs = jnp.full((2, 1), matcher.start_id).astype(jnp.int32)
  inputs = jnp.concatenate([inputs, texts()[:, :-1]], axis=1)
  hidden = write(queries, matcher.embedding(inputs))
  np.testing.assert_allclose(
    matcher.lm_head(hidden, matcher.embedding.words),
    matcher.lm_logits(queries, texts()),
    atol=1e-5,
  )


def test_heads_that_are_not_there_are_named():
  options = dict(has_contrast_head=False, has_match_head=False)
  bare = compiled.Compiled(
    step.merge(*made(retrieval.Retrieval, "debug_itm", **options))
  )
  assert bare.temperature is None
  tokens = bare.encode_image(images())
  queries = bare.see(tokens)
  for head, call in {
    "contrast": lambda: bare.text_features(texts()),
    "match": lambda: bare.match_logits(tokens, texts()),
    "lm": lambda: bare.lm_logits(queries, texts()),
  }.items():
    with pytest.raises(ValueError, match=f"made with has_{head}_head=False"):
      call()


def test_a_text_must_fit_its_positions(matcher):
  with pytest.raises(ValueError, match=r"text of 13 tokens.* 12 positions"):
    matcher.text_features(texts(2, 13))


def test_text_starts_as_small_as_berts():
  embedding = qformer.TextEmbedding(VOCAB, 16, 12, rngs=layers.Keys(0))
  for array in (embedding.words.table, embedding.positions):
    assert 0.5 < np.std(array[...]) / qformer.STD < 2


# Parts.


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(image_size=50), r"image_size=50 .*patch_size=16; try 48"),
    (dict(qformer_depth=3), "3 blocks.*try 4"),
  ],
)
def test_shapes_that_cannot_be(change, message):
  with pytest.raises(ValueError, match=message):
    made(model.Model, "debug", **change)


def test_positions_of_another_size_keep_the_class_tokens():
  table = jax.random.normal(jax.random.key(0), (1 + 16, 8))
  np.testing.assert_allclose(
    vision.resize_positions(table, 4), table, atol=1e-6
  )
  larger = vision.resize_positions(table, 6)
  assert larger.shape == (1 + 36, 8)
  np.testing.assert_array_equal(larger[0], table[0])
  # A table whose patches are alike stays so: weights sum to one.
  flat = table.at[1:].set(table[1])
  np.testing.assert_allclose(
    vision.resize_positions(flat, 6)[1:], jnp.tile(table[1], (36, 1)), atol=1e-5
  )


def test_pixels_are_those_of_the_host_side_table():
  blip2 = preprocess.FAMILIES["blip2"]
  assert vision.CLIP_MEAN == blip2.mean and vision.CLIP_STD == blip2.std


def test_pixels_are_normed_by_channel():
  """An image of the mean gives what the patch's bias alone gives."""
  tower = step.merge(
    *made(model.Model, "debug", image_mean=(0.2, 0.4, 0.6))
  ).vit
  image = jnp.full((1, 32, 32, 3), jnp.asarray([51, 102, 153], jnp.uint8))
  before, other = tower(image), tower(image + 9)
  assert is_far(before, other)
  tower.patch.kernel[...] = 0 * tower.patch.kernel[...]
  np.testing.assert_allclose(before, tower(image), atol=1e-5)


# Names, sizes, config.json.

PARTS = {
  "model": (model.Model, "debug", {}),
  "retrieval": (retrieval.Retrieval, "debug_itm", dict(has_lm_head=True)),
}


def shapes(cls, options):
  abstract = nnx.eval_shape(lambda: cls(**options))
  return trees.flatten_with_names(
    nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
  )


@pytest.mark.parametrize("part", PARTS)
def test_tables_name_every_array_once(part):
  cls, size, changes = PARTS[part]
  options = {"vocab_size": VOCAB} | sizes.get(size) | changes
  named = shapes(cls, options)
  fresh = {n for n in named if n.startswith("lm_head/") or n == "temperature"}
  table = params.table(options, part)
  ours = [r.name for r in table.renames]
  assert sorted(ours) == sorted({*named} - fresh)
  foreign = [(name, r.part) for r in table.renames for name in r.names()]
  assert len({*foreign}) == len(foreign)


@pytest.mark.parametrize("part", PARTS)
def test_every_parameter_has_one_axis_name_per_dimension(part):
  cls, size, changes = PARTS[part]
  options = {"vocab_size": VOCAB} | sizes.get(size) | changes
  state = nnx.state(nnx.eval_shape(lambda: cls(**options)), nnx.Param)
  variables = [v for _, v in nnx.to_flat_state(state)]
  assert len(variables) > 60
  for variable in variables:
    assert len(variable.get_metadata()["axes"]) == variable.get_value().ndim


@pytest.mark.parametrize(
  "size,vit,qformer_,rest",
  [
    # Millions. Source: BLIP-2's paper and LAVIS: a tower of 986, a Q-Former of
    # 105 without its text's MLPs; T5's with a head of its own, and the
    # projection. With text: 162 and tokens, positions and three heads.
    ("blip2_flan_t5_xl", 985.95, 105.1, 2850 + 1.6),
    ("blip2_flan_t5_xxl", 985.95, 105.1, 11135 + 3.1),
    ("blip2_itm_vit_g", 985.95, 161.8, 23.8 + 0.4),
  ],
)
def test_sizes_are_the_published_ones(size, vit, qformer_, rest):
  cls, vocab = model.Model, 32100
  if "itm" in size:
    cls, vocab = retrieval.Retrieval, 30523
  counts = dict.fromkeys(("vit", "qformer", "rest"), 0)
  for name, array in shapes(
    cls, sizes.get(size) | {"vocab_size": vocab}
  ).items():
    side = name.split("/")[0]
    counts[side if side in counts else "rest"] += math.prod(array.shape)
  millions = [n / 1e6 for n in counts.values()]
  assert millions == pytest.approx([vit, qformer_, rest], rel=0.002)


def test_unknown_size_lists_those_that_exist():
  with pytest.raises(KeyError, match=r"'huge'.*blip2_flan_t5_xl"):
    sizes.get("huge")


@pytest.mark.parametrize("size", ["blip2_flan_t5_xl", "blip2_flan_t5_xxl"])
def test_config_of_a_writer_comes_back(size):
  options = sizes.get(size) | {"vocab_size": 32100}
  config = hf_config.config(options, "model", rows=32128)
  # As in the files on the hub.
  assert config["image_token_index"] == 32100
  assert config["text_config"]["dense_act_fn"] == "gelu"
  found = hf_config.options(config)
  assert found.pop("image_token_id") == 32100
  assert found.pop("vocab_size") == 32128
  assert found.pop("is_head_tied") is False
  assert found == {name: options[name] for name in found}


def test_config_of_retrieval_comes_back():
  options = sizes.get("blip2_itm_vit_g") | {"vocab_size": 30523}
  config = hf_config.config(options, "retrieval", rows=30523)
  found = hf_config.retrieval_options(config)
  assert found == options | {"image_token_id": None}


def test_config_has_the_defaults_of_their_classes():
  options = hf_config.retrieval_options(
    dict(
      model_type="blip-2",
      architectures=["Blip2ForImageTextRetrieval"],
      qformer_config=dict(use_qformer_text_input=True, vocab_size=30523),
    )
  )
  wanted = sizes.get("blip2_itm_vit_g") | dict(vocab_size=30523)
  assert options == wanted | dict(image_token_id=None)


def test_no_row_is_left_for_an_image_token():
  options = sizes.get("debug") | {"vocab_size": 40}
  with pytest.raises(ValueError, match=r"all 40 rows.*Set image_token_id"):
    hf_config.config(options, "model", rows=40)
  config = hf_config.config(options | {"image_token_id": 7}, "model", rows=40)
  assert config["image_token_index"] == 7


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(model_type="blip"), "model_type='blip'.*'blip-2'"),
    (dict(architectures=["Blip2ForImageTextRetrieval"]), "retrieval_options"),
    (dict(text_config=None), "model_type='opt'.*'t5'"),
    (dict(vision_config=dict(hidden_act="quick_gelu")), "'quick_gelu' in vis"),
    (dict(vision_config=dict(image_size=[224, 448])), r"image_size=\[224"),
    (
      dict(qformer_config=dict(cross_attention_frequency=3)),
      "cross_attention_frequency=3 in qformer_config",
    ),
    (
      dict(qformer_config=dict(use_qformer_text_input=True)),
      "use_qformer_text_input=True in qformer_config",
    ),
    (dict(text_config=dict(dense_act_fn="silu")), "dense_act_fn='silu'"),
    (dict(text_config=dict(d_ff=None)), r"d_ff"),
  ],
)
def test_config_that_we_cannot_compute_is_refused(change, message):
  config = hf_config.config(
    sizes.get("blip2_flan_t5_xl") | {"vocab_size": 90}, "model", rows=128
  )
  for name, value in change.items():
    if isinstance(value, dict):
      value = {k: v for k, v in (config[name] | value).items() if v is not None}
    config[name] = value
  with pytest.raises(ValueError, match=message):
    hf_config.options(config)


def test_config_of_a_writer_is_not_of_retrieval():
  config = hf_config.config(
    sizes.get("blip2_flan_t5_xl") | {"vocab_size": 90}, "model", rows=128
  )
  with pytest.raises(ValueError, match=r"ConditionalGeneration.*ImageTextRetr"):
    hf_config.retrieval_options(config)


def test_retrieval_without_a_head_has_no_counterpart():
  options = sizes.get("debug_itm") | {"has_match_head": False}
  with pytest.raises(ValueError, match="has_match_head=False"):
    params.table(options, "retrieval")
