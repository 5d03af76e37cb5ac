"""PaliGemma: prefix and suffix, caches, rows, names, sizes and config.json."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import compiled
from vpd_jax import trees
from vpd_jax.models.paligemma import hf_config, model, params, sizes

VOCAB = 40
DEBUG = sizes.get("debug")
# float32; sums are taken in another order.
CLOSE = dict(rtol=1e-5, atol=1e-5)
pytestmark = pytest.mark.usefixtures("strict_dtypes")


def redrawn(**changes):
  """A model of which no part is dead: norms' weights are not 0."""
  made = model.Model(vocab_size=VOCAB, **DEBUG | changes)
  rng = np.random.default_rng(0)
  for path, value in nnx.to_flat_state(nnx.state(made, nnx.Param)):
    if path[-1] in ("scale", "bias"):
      noise = 0.3 * rng.standard_normal(value.shape)
      value[...] = value[...] + noise.astype(np.float32)
  return made


@pytest.fixture(scope="module")
def tiny():
  return compiled.Compiled(redrawn())


@pytest.fixture(scope="module")
def batch():
  """(uint8[3, 48, 48, 3], padded prompts int32[3, 6], targets int32[3, 7])."""
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
  prompt = rng.integers(2, VOCAB, (3, 6)).astype(np.int32)
  prompt *= np.arange(6, dtype=np.int32) < np.array([[6], [2], [4]])
  target = rng.integers(2, VOCAB, (3, 7)).astype(np.int32)
  return image, prompt, target


def test_prefix_sees_all_of_itself_and_suffix_the_past(tiny, batch):
  """Rows: what moves when a token changes. Columns: image, prompt, target."""
  image, prompt, target = (x[:1] for x in batch)

  def states(image, prompt, target):
    encoded, mask = tiny.encode(tiny.encode_image(image), prompt)
    return np.asarray(tiny.decode(encoded, mask, target)), encoded, mask

  base, encoded, mask = states(image, prompt, target)
  # A patch's token: all states see it; the window is 8, the first layer only.
  moved = encoded.at[0, 0].add(1.0)
  moved = np.asarray(tiny.decode(moved, mask, target))
  assert np.all(np.abs(moved - base).max(-1) > 1e-4)
  # The last prompt token: all.
  other = prompt.copy()
  other[0, -1] = prompt[0, -1] - 1
  assert np.all(np.abs(states(image, other, target)[0] - base).max(-1) > 1e-4)
  # A target token: what comes after it, and only that.
  other = target.copy()
  other[0, 3] = target[0, 3] % (VOCAB - 2) + 2
  moved = np.abs(states(image, prompt, other)[0] - base).max(-1)[0]
  np.testing.assert_array_equal(moved > 1e-4, [0, 0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(moved[:4], 0)


def test_first_prompt_token_sees_the_last(tiny, batch):
  """The prefix is not causal: keys of its first token know its last."""
  image, prompt, _ = (x[:1] for x in batch)
  image_BPD = tiny.encode_image(image)
  other = prompt.copy()
  other[0, -1] = prompt[0, -1] - 1
  keys = [
    tiny.context(*tiny.encode(image_BPD, p)).keys for p in (prompt, other)
  ]
  first = image_BPD.shape[1]
  assert np.abs(keys[0] - keys[1])[1, 0, first].max() > 1e-4


@pytest.mark.parametrize("side", ["right", "left", "both"])
def test_padding_changes_nothing(tiny, batch, side):
  image, prompt, target = batch
  before, after = {"right": (0, 5), "left": (5, 0), "both": (3, 2)}[side]
  padded = np.pad(prompt, ((0, 0), (before, after)))
  np.testing.assert_allclose(
    tiny(image, padded, target), tiny(image, prompt, target), **CLOSE
  )
  # Of a target too: what comes behind a token cannot matter to it.
  longer = np.pad(target, ((0, 0), (0, 4)))
  np.testing.assert_allclose(
    tiny(image, prompt, longer)[:, :7], tiny(image, prompt, target), **CLOSE
  )


def test_a_token_of_padding_does_matter_if_it_is_real(tiny, batch):
  image, prompt, target = batch
  longer = np.pad(prompt, ((0, 0), (0, 1)), constant_values=5)
  difference = tiny(image, longer, target) - tiny(image, prompt, target)
  assert np.abs(difference[0]).max() > 1e-3


def cached(made, encoded, target):
  """Logits of a target, by `decode_next` token by token."""
  context = made.context(*encoded)
  cache = made.init_cache(len(target), target.shape[1] + 2)
  out = []
  # Whatever is given at position 0 is not looked at.
  token = jnp.full(len(target), 17, jnp.int32)
  for position in range(target.shape[1]):
    logits, cache = made.decode_next(token, jnp.int32(position), context, cache)
    out.append(logits)
    token = jnp.asarray(target[:, position])
  return jnp.stack(out, axis=1)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    dict(window=None, is_scanned=True),
    # Shorter than a target: its own keys are left behind too.
    dict(window=3, kv_heads=2),
    # Gemma 1.
    dict(
      window=None,
      has_post_norms=False,
      attention_softcap=None,
      logits_softcap=None,
    ),
  ],
  ids=["debug", "scanned", "short_window", "gemma1"],
)
def test_cached_decoding_is_the_full_forward(batch, changes):
  made = compiled.Compiled(redrawn(**changes))
  image, prompt, target = batch
  encoded = made.encode(made.encode_image(image), prompt)
  np.testing.assert_allclose(
    cached(made, encoded, target), made(image, prompt, target), **CLOSE
  )


def test_rows_share_a_prefix_that_is_held_once(tiny, batch):
  image, prompt, target = batch
  targets = np.concatenate([target, target[:, ::-1]], axis=1).reshape(6, 7)
  encoded = tiny.encode(tiny.encode_image(image), prompt)
  shared = tiny.logits(tiny.decode(*encoded, targets))
  repeated = tiny(image.repeat(2, 0), prompt.repeat(2, 0), targets)
  np.testing.assert_allclose(shared, repeated, **CLOSE)
  np.testing.assert_allclose(cached(tiny, encoded, targets), repeated, **CLOSE)
  for leaf in jax.tree.leaves(tiny.context(*encoded)):
    assert 3 in leaf.shape[:2] and 6 not in leaf.shape[:2]


def test_target_of_one_token_and_prompt_without_image(tiny, batch):
  image, prompt, target = batch
  whole = tiny(image, prompt, target)
  np.testing.assert_allclose(
    tiny(image, prompt, target[:, :1]), whole[:, :1], **CLOSE
  )
  encoded = tiny.encode(None, prompt)
  alone = tiny.logits(tiny.decode(*encoded, target))
  assert np.abs(alone - whole).max() > 1e-3
  np.testing.assert_allclose(cached(tiny, encoded, target), alone, **CLOSE)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_is_unrolled_in_values_and_gradients(batch, remat):
  image, prompt, target = batch
  graphdef, state = nnx.split(redrawn(), nnx.Param)
  scanned = nnx.split(redrawn(is_scanned=True, remat=remat), nnx.Param)[0]

  def loss(graphdef, state):
    logits = nnx.merge(graphdef, state)(image, prompt, target)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 3])

  of = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)
  ours, theirs = of(graphdef, state), of(scanned, state)
  for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  for name, gradient in trees.flatten_with_names(
    nnx.to_pure_dict(ours[1])
  ).items():
    if not name.endswith("key/bias"):  # A softmax does not see it.
      assert np.abs(gradient).max() > 1e-7, f"{name} is dead"


def test_bfloat16_is_close(tiny, batch):
  image, prompt, target = batch
  tokens = tiny.model.encode_image(jnp.asarray(image), jnp.bfloat16)
  hidden = tiny.decode(*tiny.encode(tokens, prompt), target)
  assert tokens.dtype == hidden.dtype == jnp.bfloat16
  logits = tiny.logits(hidden)
  assert logits.dtype == jnp.float32
  # bfloat16 holds 8 bits; errors add up over some layers.
  np.testing.assert_allclose(logits, tiny(image, prompt, target), atol=0.15)


@functools.cache
def shapes(size, vocab_size=257152):
  made = nnx.eval_shape(
    lambda: model.Model(vocab_size=vocab_size, **sizes.get(size))
  )
  return trees.flatten_with_names(nnx.to_pure_dict(nnx.state(made, nnx.Param)))


@pytest.mark.parametrize(
  "size,billions",
  [
    # From the checkpoints' own pages.
    ("paligemma_3b_224", 2.92),
    ("paligemma_3b_896", 2.93),
    ("paligemma2_3b_224", 3.03),
    ("paligemma2_10b_448", 9.66),
    ("paligemma2_28b_224", 27.7),
  ],
)
def test_sizes_are_the_published_ones(size, billions):
  count = sum(math.prod(x.shape) for x in shapes(size).values())
  assert count / 1e9 == pytest.approx(billions, rel=5e-3)


def test_unknown_size_lists_the_known():
  with pytest.raises(KeyError, match=r"'3b'; it has \[.*paligemma2_28b_896"):
    sizes.get("3b")


OPTIONS = {
  "paligemma": sizes.get("paligemma_3b_224"),
  "paligemma2": sizes.get("paligemma2_3b_448"),
  # Each query head has its own keys: one array for all three in big_vision.
  "own_keys": sizes.get("paligemma_3b_224") | dict(kv_heads=8),
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("make", [params.table, params.big_vision])
def test_tables_name_every_array_once(kind, make):
  options = OPTIONS[kind]
  made = nnx.eval_shape(lambda: model.Model(vocab_size=64, **options))
  named = nnx.to_pure_dict(nnx.state(made, nnx.Param))
  table = make(options, "model")
  ours = [r.name for r in table.renames]
  assert sorted(ours) == sorted(trees.flatten_with_names(named))
  foreign = [(r.foreign, r.part) for r in table.renames]
  assert len({*foreign}) == len(foreign)


@pytest.mark.parametrize("size", ["paligemma_3b_224", "paligemma2_28b_448"])
def test_big_vision_options_of_real_shapes(size):
  """Shapes as the named checkpoints have them."""
  options = sizes.get(size)
  table = params.big_vision(options, "model")
  named = shapes(size)
  found = {}
  for rename in table.renames:
    shape = rename.their_shape(named[rename.name].shape)
    found |= dict.fromkeys(rename.names(), shape)
  assert found["llm/embedder/input_embedding"][0] == 257152
  read = params.big_vision_options(found)
  expected = {"query_width": options["head_width"]} | options
  expected |= dict(vocab_size=257152, window=None)
  defaults = dict(
    has_post_norms=False, attention_softcap=None, logits_softcap=None
  )
  del expected["vocab_multiple"]
  assert read == defaults | expected


def test_tables_refuse_what_is_not_theirs():
  with pytest.raises(ValueError, match="has no part 'image'"):
    params.table(DEBUG, "image")
  with pytest.raises(ValueError, match="stem of 2 steps"):
    params.big_vision(DEBUG | dict(stem=((4, 8), (4, 16))), "model")
  with pytest.raises(ValueError, match="llm/embedder/input_embedding"):
    params.big_vision_options({"img/embedding/kernel": (14, 14, 3, 24)})


# As the first checkpoints of each family say it; the rest is left out.
PALIGEMMA = dict(
  model_type="paligemma",
  image_token_index=257152,
  hidden_size=2048,
  projection_dim=2048,
  pad_token_id=0,
  eos_token_id=1,
  text_config=dict(
    model_type="gemma",
    hidden_size=2048,
    intermediate_size=16384,
    num_attention_heads=8,
    num_hidden_layers=18,
    num_key_value_heads=1,
    vocab_size=257216,
  ),
  vision_config=dict(
    model_type="siglip_vision_model",
    hidden_size=1152,
    intermediate_size=4304,
    num_attention_heads=16,
    num_hidden_layers=27,
    patch_size=14,
    vision_use_head=False,
  ),
)
PALIGEMMA2 = PALIGEMMA | dict(
  projection_dim=2304,
  text_config=dict(
    model_type="gemma2",
    hidden_size=2304,
    intermediate_size=9216,
    num_attention_heads=8,
    num_hidden_layers=26,
    num_key_value_heads=4,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    vocab_size=257216,
  ),
)


@pytest.mark.parametrize(
  "config,size",
  [(PALIGEMMA, "paligemma_3b_224"), (PALIGEMMA2, "paligemma2_3b_224")],
)
def test_config_of_a_checkpoint_is_its_size(config, size):
  read = hf_config.options(config)
  expected = sizes.get(size) | dict(vocab_size=257216)
  del expected["vocab_multiple"]
  if config is PALIGEMMA2:
    expected["query_width"] = 256
  assert read == expected
  written = hf_config.config(read, "model", 257216)
  assert hf_config.options(written) == read
  assert written["image_token_index"] == 257152


def changed(config, part=None, **fields):
  if part is None:
    return config | fields
  return config | {part: config[part] | fields}


@pytest.mark.parametrize(
  "config,message",
  [
    (changed(PALIGEMMA, model_type="llava"), "model_type='llava'; paligemma"),
    (changed(PALIGEMMA, projection_dim=1024), "projection_dim=1024; image"),
    (changed(PALIGEMMA, text_config=None), "lacks text_config"),
    (changed(PALIGEMMA, pad_token_id=3), "pad_token_id=3; .* 0 only"),
    (
      changed(PALIGEMMA, "text_config", model_type="llama"),
      "model_type='llama'; paligemma reads",
    ),
    (
      changed(PALIGEMMA, "text_config", rope_theta=1e6),
      "'rope_theta': 1000000.0",
    ),
    (
      changed(PALIGEMMA, "text_config", rope_scaling={"type": "linear"}),
      "linear",
    ),
    (
      changed(PALIGEMMA, "text_config", hidden_act="silu"),
      "hidden_act='silu'",
    ),
    (
      changed(PALIGEMMA, "text_config", tie_word_embeddings=False),
      "text_config.tie_word_embeddings=False",
    ),
    (
      changed(PALIGEMMA2, "text_config", layer_types=["full_attention"] * 3),
      "in turn, or full_attention alone, in 26 layers",
    ),
    (
      changed(PALIGEMMA, "vision_config", hidden_act="gelu"),
      "vision_config.hidden_act='gelu'",
    ),
    (
      changed(PALIGEMMA, "vision_config", model_type="clip_vision_model"),
      "'clip_vision_model'; paligemma reads",
    ),
  ],
)
def test_config_that_is_not_computed(config, message):
  with pytest.raises(ValueError, match=message):
    hf_config.options(config)


def test_config_that_transformers_has_no_model_for():
  options = sizes.get("paligemma_3b_224") | dict(logits_softcap=30.0)
  with pytest.raises(ValueError, match="logits_softcap"):
    hf_config.config(options, "model", 257216)
