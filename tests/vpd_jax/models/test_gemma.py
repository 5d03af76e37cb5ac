"""Layers of the Gemmas: values by hand, and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpd_jax.models import attention, gemma, layers

pytestmark = pytest.mark.usefixtures("strict_dtypes")
HEAD = 8
FREQUENCIES = jnp.asarray(gemma.frequencies(HEAD, 100.0))


def normal(seed, *shape):
  drawn = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(drawn, jnp.float32)


def test_norm_by_hand():
  norm = gemma.RMSNorm(2, eps=0.0)
  x = jnp.asarray([[3.0, -4.0]])
  root = np.sqrt(12.5)
  np.testing.assert_allclose(norm(x), [[3 / root, -4 / root]], rtol=1e-6)
  norm.scale[...] = jnp.asarray([1.0, -0.5])
  np.testing.assert_allclose(norm(x), [[6 / root, -2 / root]], rtol=1e-6)


def test_norm_of_bfloat16_rounds_once():
  norm = gemma.RMSNorm(64)
  norm.scale[...] = normal(0, 64)
  x = (30 * normal(1, 5, 64)).astype(jnp.bfloat16)
  exact = norm(x.astype(jnp.float32))
  assert norm(x).dtype == jnp.bfloat16
  np.testing.assert_array_equal(norm(x), exact.astype(jnp.bfloat16))


def test_frequencies_by_hand():
  np.testing.assert_allclose(gemma.frequencies(4, 100.0), [1.0, 0.1])
  np.testing.assert_allclose(gemma.frequencies(4, 100.0, 8.0), [0.125, 0.0125])
  per_layer = gemma.frequencies(4, np.array([100.0, 1e4]), np.array([1.0, 2.0]))
  np.testing.assert_allclose(per_layer, [[1.0, 0.1], [0.5, 0.005]], rtol=1e-6)


def test_rotation_turns_the_two_halves():
  # Pairs are (x0, x2) and (x1, x3); only the first pair is not 0.
  x = jnp.asarray([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
  turned = gemma.rotate(x, jnp.asarray([[3]]), jnp.asarray([0.5, 0.1]))
  by_hand = [np.cos(1.5), 0.0, np.sin(1.5), 0.0]
  np.testing.assert_allclose(turned.ravel(), by_hand, atol=1e-6)


def test_rotation_shows_distances_only():
  q, k = normal(0, 1, 1, 1, HEAD), normal(1, 1, 1, 1, HEAD)

  def score(query_at, key_at):
    a = gemma.rotate(q, jnp.asarray([[query_at]]), FREQUENCIES)
    b = gemma.rotate(k, jnp.asarray([[key_at]]), FREQUENCIES)
    return float(jnp.sum(a * b))

  assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-5)
  assert score(5, 2) != pytest.approx(score(2, 5), abs=1e-2)


def test_rotation_in_bfloat16_tells_far_neighbours_apart():
  x = jnp.ones((1, 2, 1, 2), jnp.bfloat16)
  # 4001 and 4002 are one number in bfloat16.
  turned = gemma.rotate(x, jnp.asarray([[4001, 4002]]), jnp.ones((1,)))
  expected = np.cos([4001, 4002]) - np.sin([4001, 4002])
  np.testing.assert_allclose(
    turned[0, :, 0, 0].astype(jnp.float32), expected, atol=1e-2
  )


def test_window_drawn():
  positions = jnp.arange(5)[None]
  drawn = """
    1 1 0 0 0
    1 1 1 0 0
    1 1 1 1 0
    0 1 1 1 1
    0 0 1 1 1
  """
  rows = [[c == "1" for c in r.split()] for r in drawn.strip().splitlines()]
  found = gemma.window(positions, positions, left=3, right=2)
  np.testing.assert_array_equal(found[0], rows)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("is_mask_per_row", [False, True])
def test_merged_attention_is_that_over_all_keys(
  softcap, kv_heads, is_mask_per_row
):
  batch, per_example, length, own_length, shared_length = 3, 2, 5, 6, 7
  rows = batch * per_example
  q = normal(0, rows, length, 4, HEAD)
  own = [normal(i, rows, own_length, kv_heads, HEAD) for i in (1, 2)]
  shared = [normal(i, batch, shared_length, kv_heads, HEAD) for i in (3, 4)]
  mask_rows = rows if is_mask_per_row else 1
  own_mask = normal(5, mask_rows, length, own_length) > 0
  shared_mask = normal(6, batch, length, shared_length) > 0
  merged = jax.jit(gemma.attend_merged, static_argnums=5)(
    q, tuple(own), own_mask, tuple(shared), shared_mask, softcap
  )

  def repeated(x):
    return jnp.repeat(x, per_example, axis=0)

  plain = jax.jit(attention.attend, static_argnames="softcap")(
    q,
    *(
      jnp.concatenate([a, repeated(b)], axis=1)
      for a, b in zip(own, shared, strict=True)
    ),
    jnp.concatenate(
      [jnp.broadcast_to(own_mask, (rows, *own_mask.shape[1:]))]
      + [repeated(shared_mask)],
      axis=-1,
    ),
    softcap=softcap,
  )
  np.testing.assert_allclose(merged, plain, atol=1e-5)


def make_block(**changes):
  options = dict(query_scale=HEAD**-0.5, rngs=layers.Keys(0)) | changes
  return gemma.Block(16, 4, 2, HEAD, 24, **options)


def call(block, x):
  q, k, v = block.project(x, jnp.arange(x.shape[1])[None], FREQUENCIES)
  return block.finish(x, block.attend(q, k, v, None))


def test_block_of_gemma_1_by_hand():
  block, x = make_block(), normal(7, 2, 5, 16)
  h = block.norm_attention(x)
  positions = jnp.arange(5)[None]
  split = [
    (h @ linear.kernel[...]).reshape(2, 5, -1, HEAD)
    for linear in (
      block.attention.query,
      block.attention.key,
      block.attention.value,
    )
  ]
  q, k = (gemma.rotate(y, positions, FREQUENCIES) for y in split[:2])
  k, v = (jnp.repeat(y, 2, axis=2) for y in (k, split[2]))
  scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(HEAD)
  y = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores), v)
  y = x + y.reshape(2, 5, -1) @ block.attention.out.kernel[...]
  expected = y + block.mlp(block.norm_mlp(y))
  np.testing.assert_allclose(call(block, x), expected, atol=1e-5)


def test_options_of_gemma_2_and_3():
  x = normal(8, 2, 5, 16)
  plain = make_block()
  assert plain.norm_mlp_out is None and plain.attention.key_norm is None
  # A post-norm makes each part's size its own.
  post = make_block(has_post_norms=True)
  before = call(post, x)
  post.attention.out.kernel[...] *= 3.0
  post.mlp.down.kernel[...] *= 3.0
  np.testing.assert_allclose(call(post, x), before, atol=1e-4)
  # With QK norms neither queries' nor keys' size matters; without, it does.
  for block, is_equal in ((make_block(has_qk_norm=True), True), (plain, False)):
    before = call(block, x)
    block.attention.query.kernel[...] *= 3.0
    block.attention.key.kernel[...] *= 3.0
    difference = float(jnp.abs(call(block, x) - before).max())
    assert (difference < 1e-4) == is_equal, difference
  # A small cap makes all scores nearly equal, so values are averaged.
  capped = make_block(attention_softcap=1e-4)
  q, k, v = capped.project(x, jnp.arange(5)[None], FREQUENCIES)
  mean = jnp.repeat(v.mean(1, keepdims=True), 2, axis=2)
  np.testing.assert_allclose(
    capped.attend(q, k, v, None), jnp.broadcast_to(mean, q.shape), atol=1e-3
  )


def test_keys_do_not_turn_without_positions():
  block, x = make_block(has_qk_norm=True), normal(9, 2, 5, 16)
  plain = block.attention.keys_values(x, None, None)
  at_zero = block.attention.keys_values(
    x, jnp.zeros((1, 5), jnp.int32), FREQUENCIES
  )
  turned = block.attention.keys_values(x, jnp.arange(5)[None], FREQUENCIES)
  np.testing.assert_allclose(plain[0], at_zero[0], atol=1e-6)
  assert float(jnp.abs(plain[0] - turned[0]).max()) > 0.1
  np.testing.assert_array_equal(plain[1], turned[1])


def test_heads_that_do_not_divide():
  with pytest.raises(ValueError, match="heads=4 is not a multiple of kv_heads"):
    gemma.Block(16, 4, 3, HEAD, 24, query_scale=1.0, rngs=layers.Keys(0))


def test_embedding():
  embedding = layers.Embedding(5, 2, rngs=layers.Keys(0))
  x = gemma.embed(embedding, jnp.asarray([[3]]), jnp.bfloat16)
  # sqrt(2) = 1.4142 is 1.4140625 in bfloat16.
  row = embedding.table[...][3].astype(jnp.bfloat16)
  np.testing.assert_array_equal(x[0, 0], row * jnp.asarray(1.4140625, x.dtype))
