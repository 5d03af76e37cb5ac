"""PaLI: what its parts compute, and laws of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import compiled, tiny
from vpd_jax import step
from vpd_jax.models import attention, layers, vit
from vpd_jax.models.pali import sizes

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def model():
  return compiled.Compiled(step.merge(*tiny.pali()))


@pytest.fixture(scope="module")
def inputs():
  batch = tiny.on_device(tiny.batch())
  keys = ("image", "rationale_prompt", "rationale_target")
  return [batch[key] for key in keys]


def test_padding_of_the_prompt_changes_nothing(model, inputs):
  image, prompt, target = inputs
  padded = jnp.pad(prompt, ((0, 0), (0, 5)))
  np.testing.assert_allclose(
    model(image, prompt, target), model(image, padded, target), atol=1e-5
  )


def test_a_target_token_changes_only_what_comes_after_it(model, inputs):
  image, prompt, target = inputs
  changed = target.at[:, 4].set((target[:, 4] + 1) % tiny.VOCAB)
  a, b = model(image, prompt, target), model(image, prompt, changed)
  # The token at 4 is the decoder's input at 5.
  np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-6)
  assert float(jnp.abs(a[:, 5:] - b[:, 5:]).max()) > 1e-3


def test_image_and_prompt_are_both_read(model, inputs):
  image, prompt, target = inputs
  logits = model(image, prompt, target)
  other_image = model(255 - image, prompt, target)
  other_prompt = model(image, prompt[::-1], target)
  assert float(jnp.abs(logits - other_image).max()) > 1e-3
  assert float(jnp.abs(logits - other_prompt).max()) > 1e-3


def test_cached_decoding_is_the_full_forward(model, inputs):
  image, prompt, target = inputs
  logits_BTV = model(image, prompt, target)
  context = model.context(*model.encode(model.encode_image(image), prompt))
  cache = model.init_cache(len(target), target.shape[1])
  token = jnp.zeros((len(target),), jnp.int32)
  for position in range(target.shape[1]):
    logits_BV, cache = model.decode_next(
      token, jnp.asarray(position), context, cache
    )
    np.testing.assert_allclose(logits_BV, logits_BTV[:, position], atol=1e-5)
    token = target[:, position]


def test_patches_by_hand():
  #  0  1 | 2  3      one channel; squares of side 2, row by row
  #  4  5 | 6  7
  x = jnp.arange(8.0).reshape(1, 2, 4, 1)
  by_hand = [[[[0, 1, 4, 5], [2, 3, 6, 7]]]]
  np.testing.assert_array_equal(vit.patches(x, 2), by_hand)


def test_stem_in_steps_sees_a_whole_patch_and_nothing_else():
  """A pixel changes the stem's output at its own 16-pixel patch alone."""
  graphdef, params = tiny.pali(
    **{k: sizes.WORLD[k] for k in ("stem", "vit_heads", "vit_mlp_width")},
    vit_depth=0,
  )
  tower = jax.jit(step.merge(graphdef, params).vit)
  image = np.zeros((1, 48, 48, 3), np.uint8)
  changed = image.copy()
  changed[0, 20, 40, 1] = 255  # Row 1, column 2 of the patches.
  difference = np.abs(np.asarray(tower(image) - tower(changed))).max(-1)[0]
  assert difference[5] > 1e-3
  assert np.delete(difference, 5).max() == 0


def test_image_size_must_be_a_multiple_of_the_patch():
  with pytest.raises(ValueError, match=r"image_size=50.*try 48"):
    tiny.pali(image_size=50)


def test_unknown_size_lists_those_that_exist():
  with pytest.raises(KeyError, match=r"'huge'.*debug"):
    sizes.get("huge")


@pytest.mark.parametrize(
  "distance,is_causal,bucket",
  [
    # Eight buckets up to distance 16. Causal: 0..3 exact, then log.
    (0, True, 0),
    (-3, True, 3),
    (-4, True, 4),
    (-8, True, 6),
    (-100, True, 7),
    (5, True, 0),
    # Both ways: half the buckets each, of which two exact.
    (0, False, 0),
    (-1, False, 1),
    (1, False, 5),
    (-100, False, 3),
    (100, False, 7),
  ],
)
def test_relative_buckets(distance, is_causal, bucket):
  found = attention.relative_bucket(
    jnp.asarray(distance), is_causal=is_causal, buckets=8, max_distance=16
  )
  assert int(found) == bucket


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(
  "queries,keys,first_query", [(5, 5, 0), (3, 7, 2), (7, 3, 0), (1, 9, 4)]
)
def test_relative_bias_is_that_of_each_pair(
  queries, keys, first_query, is_causal
):
  bias = attention.RelativeBias(
    2, is_causal=is_causal, rngs=layers.Keys(0), buckets=8, max_distance=6
  )
  query_positions = first_query + np.arange(queries)[:, None]
  bucket_TS = attention.relative_bucket(
    jnp.asarray(np.arange(keys)[None] - query_positions),
    is_causal=is_causal,
    buckets=8,
    max_distance=6,
  )
  table = np.asarray(bias.table[...])
  expected = np.moveaxis(table[np.asarray(bucket_TS)], -1, 0)
  found = bias(queries, keys, jnp.asarray(first_query))
  assert found.shape == (2, queries, keys)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_relative_bias_counts_each_pair_in_its_gradient():
  """Each bucket's gradient is the sum over the pairs that have it."""
  bias = attention.RelativeBias(
    2, is_causal=False, rngs=layers.Keys(0), buckets=8
  )
  graphdef, params = nnx.split(bias)
  upstream = np.random.default_rng(0).normal(size=(2, 4, 6))
  upstream = upstream.astype(np.float32)

  def of(params):
    return jnp.sum(nnx.merge(graphdef, params)(4, 6) * upstream)

  found = jax.grad(of)(params)["table"][...]
  bucket_TS = np.asarray(
    attention.relative_bucket(
      jnp.asarray(np.arange(6)[None] - np.arange(4)[:, None]),
      is_causal=False,
      buckets=8,
      max_distance=128,
    )
  )
  for bucket in range(8):
    expected = upstream[:, bucket_TS == bucket].sum(axis=1)
    np.testing.assert_allclose(found[bucket], expected, atol=1e-5)


@pytest.mark.parametrize("width_in,width_out", [(3, 7), (7, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_has_the_gradients_of_a_product(width_in, width_out, dtype):
  rng = np.random.default_rng(0)
  x, matrix, upstream = (
    jnp.asarray(rng.normal(size=shape), dtype)
    for shape in ((2, 4, width_in), (width_in, width_out), (2, 4, width_out))
  )

  def of(product, x, matrix):
    return jnp.sum(product(x, matrix) * upstream)

  expected = jax.grad(functools.partial(of, jnp.dot), (0, 1))(x, matrix)
  found = jax.grad(functools.partial(of, layers.product), (0, 1))(x, matrix)
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_allclose(
      ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=2e-2, atol=1e-2
    )
    if dtype == jnp.float32:
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_embedding_by_product_is_embedding_by_lookup(monkeypatch):
  table = layers.Embedding(50, 8, rngs=layers.Keys(0))
  tokens = jnp.array([[0, 3, 49]])
  by_product = table(tokens)
  monkeypatch.setattr(layers, "ONE_HOT_ROWS", 0)
  np.testing.assert_allclose(by_product, table(tokens), atol=1e-6)


def test_norms_by_hand():
  x = jnp.array([[3.0, -3.0, 3.0, 3.0]])
  rms = layers.RMSNorm(4)(x)
  np.testing.assert_allclose(rms, [[1, -1, 1, 1]], atol=1e-5)
  # Mean 1.5, standard deviation sqrt(6.75).
  ln = layers.LayerNorm(4)(x)
  np.testing.assert_allclose(ln, (x - 1.5) / np.sqrt(6.75), atol=1e-5)


def test_every_parameter_has_one_axis_name_per_dimension():
  graphdef, params = tiny.pali()
  state = nnx.state(step.merge(graphdef, params), nnx.Param)
  variables = [v for _, v in nnx.to_flat_state(state)]
  assert len(variables) == len(jax.tree.leaves(params)) > 30
  for variable in variables:
    assert len(variable.get_metadata()["axes"]) == variable[...].ndim


def test_dropout_zeroes_its_share_and_keeps_the_mean():
  x = jnp.ones((64, 64))
  y = layers.dropout(x, 0.25, jax.random.key(0))
  np.testing.assert_allclose(y, jnp.where(y == 0, 0, 1 / 0.75), rtol=1e-6)
  # 4096 draws: four standard deviations of the share are 0.027.
  assert abs(float(jnp.mean(y == 0)) - 0.25) < 0.027
  np.testing.assert_array_equal(layers.dropout(x, 0.25, None), x)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_dropout_of_the_blocks_is_for_training_alone(part, inputs):
  image, prompt, target = inputs
  whole, dropping = (
    step.merge(*tiny.pali(dropout=rate)) for rate in (0.0, 0.5)
  )
  image_BPD = whole.encode_image(image)

  @nnx.jit
  def hidden(model, key):
    encode_key = key if part == "encoder" else None
    encoded = model.encode(image_BPD, prompt, encode_key)
    decode_key = key if part == "decoder" else None
    return model.decode(*encoded, target, decode_key)

  key, other = jax.random.key(1), jax.random.key(2)
  np.testing.assert_array_equal(hidden(whole, key), hidden(whole, None))
  np.testing.assert_array_equal(hidden(dropping, None), hidden(whole, None))
  np.testing.assert_array_equal(hidden(dropping, key), hidden(dropping, key))
  assert not np.allclose(hidden(dropping, key), hidden(dropping, other))
  assert not np.allclose(hidden(dropping, key), hidden(whole, None))
