"""Cross-entropy by chunks of the vocabulary = that of full logits."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vpd_jax.losses import chunked, plain
from vpd_jax.models import output

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# Rows of the vocabulary, rows of a chunk: in one piece; 16 groups, chunks that
# divide and that do not; groups of 2; a prime, so one group; a row at a time.
CUTS = [(48, 48), (64, 32), (80, 32), (50, 16), (53, 8), (32, 1)]


def _inputs(vocab, is_rows, count=6, width=8, seed=0):
  keys = jax.random.split(jax.random.key(seed), 5)
  shape = (vocab, width) if is_rows else (width, vocab)
  hidden = jax.random.normal(keys[0], (2, count // 2, width))
  matrix = jax.random.normal(keys[1], shape)
  targets = jax.random.randint(keys[2], (2, count // 2), 0, vocab)
  # The first and the last row are some token's target.
  targets = targets.at[0, 0].set(0).at[1, 0].set(vocab - 1)
  upstream = [jax.random.normal(k, targets.shape) for k in keys[3:]]
  return hidden, matrix, targets, upstream


def _full(of, targets, chunk):
  del chunk
  return plain.token_nats(of.logits(), targets)


def _chunked(of, targets, chunk):
  return chunked.token_nats(of, targets, chunk=chunk)


def _gradients(token_nats, inputs, is_rows, softcap, chunk, wrt=(0, 1)):
  hidden, matrix, targets, upstream = inputs

  def of(hidden, matrix):
    made = output.Output(hidden, matrix, is_rows, softcap)
    found = token_nats(made, targets, chunk)
    parts = zip(found, upstream, strict=True)
    return sum(jnp.sum(x * g) for x, g in parts), found

  (_, found), grads = jax.jit(
    jax.value_and_grad(of, argnums=wrt, has_aux=True)
  )(hidden, matrix)
  return found, grads


def _assert_close(found, expected):
  # float32: sums of some dozens of terms in another order.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, found, expected)


def test_by_hand():
  """One token, two rows a chunk; p = 1/8, 1/8, 1/4, 1/2."""
  of = output.Output(
    jnp.ones((1, 1)), jnp.log(jnp.array([[1.0], [1], [2], [4]])), True
  )
  nats, log_z = chunked.token_nats(of, jnp.array([3]), chunk=2)
  np.testing.assert_allclose(nats, [np.log(2)], rtol=1e-6)
  np.testing.assert_allclose(log_z, [np.log(8)], rtol=1e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("is_rows", [True, False])
@pytest.mark.parametrize("vocab,chunk", CUTS)
def test_chunked_is_full(vocab, chunk, is_rows, softcap):
  """For any gradient of nats and of log Z, another for each token."""
  inputs = _inputs(vocab, is_rows)
  options = (inputs, is_rows, softcap, chunk)
  full = _gradients(_full, *options)
  _assert_close(_gradients(_chunked, *options), full)
  # Where the matrix is frozen.
  found, (grad,) = _gradients(_chunked, *options, wrt=(0,))
  _assert_close((found, grad), (full[0], full[1][0]))


def test_gradient_of_one_output_alone():
  """What is not asked for has no gradient, in either way back."""
  hidden, matrix, targets, _ = _inputs(64, True)
  for index in (0, 1):
    for wrt in ((0,), (0, 1)):

      def of(token_nats, hidden, matrix, index=index):
        made = output.Output(hidden, matrix, True)
        return jnp.sum(token_nats(made, targets, 16)[index])

      _assert_close(
        jax.grad(functools.partial(of, _chunked), wrt)(hidden, matrix),
        jax.grad(functools.partial(of, _full), wrt)(hidden, matrix),
      )


def test_large_logits_do_not_overflow():
  hidden, matrix, targets, upstream = _inputs(64, True)
  inputs = (hidden * 100, matrix * 100, targets, upstream)
  found, grads = _gradients(_chunked, inputs, True, None, 16)
  expected, full = _gradients(_full, inputs, True, None, 16)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-2),
    (found, grads),
    (expected, full),
  )


def test_bfloat16_sums_are_float32():
  """Nearer to the exact value than logits rounded to bfloat16."""
  hidden, matrix, targets, _ = _inputs(512, True, count=64, width=32)
  half = hidden.astype(jnp.bfloat16)
  exact = half.astype(jnp.float32), matrix.astype(jnp.bfloat16)
  of_exact = output.Output(exact[0], exact[1].astype(jnp.float32), True)
  of_half = output.Output(half, matrix, True)
  expected = _full(of_exact, targets, None)[0]
  found = _chunked(of_half, targets, 128)[0]
  rounded = _full(of_half, targets, None)[0]
  assert found.dtype == jnp.float32
  error = float(jnp.abs(found - expected).max())
  assert error < 1e-5 * float(expected.max())
  assert error < 0.1 * float(jnp.abs(rounded - expected).max())


def test_gradients_keep_the_dtypes_of_what_they_are_of():
  hidden, matrix, targets, upstream = _inputs(64, False)
  inputs = (hidden.astype(jnp.bfloat16), matrix, targets, upstream)
  _, (d_hidden, d_matrix) = _gradients(_chunked, inputs, False, None, 16)
  assert d_hidden.dtype == jnp.bfloat16 and d_matrix.dtype == jnp.float32


def _compiled(
  token_nats, wrt, vocab=4096, count=64, width=16, chunk=256
) -> tuple[Any, int]:
  hidden, matrix, targets, upstream = _inputs(vocab, True, count, width)

  def of(hidden, matrix):
    made = output.Output(hidden, matrix, True)
    return jnp.sum(token_nats(made, targets, chunk)[0] * upstream[0])

  compiled = jax.jit(jax.grad(of, wrt)).lower(hidden, matrix).compile()
  return compiled, count * vocab


def _largest(text):
  sizes = [
    np.prod([int(n) for n in found.split(",") if n])
    for found in re.findall(r"\b(?:f32|bf16|pred|s32)\[([\d,]*)\]", text)
  ]
  return max(sizes)


@pytest.mark.parametrize("wrt", [(0,), (0, 1)])
def test_no_array_of_tokens_by_vocabulary(wrt):
  compiled, size = _compiled(_chunked, wrt)
  # The matrix and its gradient are the largest, a quarter of the logits.
  assert _largest(compiled.as_text()) == size // 4
  full, _ = _compiled(_full, wrt)
  assert _largest(full.as_text()) >= size
  spare = compiled.memory_analysis().temp_size_in_bytes
  assert spare < full.memory_analysis().temp_size_in_bytes / 4


def test_chunk_that_nobody_chose_keeps_logits_only_where_they_are_few(
  monkeypatch,
):
  monkeypatch.setattr(chunked, "LEAST_CHUNK", 256)

  def largest(at_a_time):
    monkeypatch.setattr(chunked, "LOGITS_AT_A_TIME", at_a_time)
    compiled, size = _compiled(
      lambda *args: chunked.token_nats(*args[:2]), (0,)
    )
    return _largest(compiled.as_text()), size

  found, size = largest(64 * 4096)
  assert found >= size
  found, size = largest(64 * 4096 - 1)
  assert found < size
  found, size = largest(1)
  assert found == size // 4


@pytest.mark.parametrize("is_rows", [True, False])
@pytest.mark.parametrize("wrt", [(0,), (0, 1)])
def test_cut_over_devices(wrt, is_rows):
  """Equal to one device's, and no device gathers the vocabulary."""
  vocab, width = 1024, 8
  hidden, matrix, targets, upstream = _inputs(vocab, is_rows, 8, width)
  mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "tensor"))
  spec = ("tensor", None) if is_rows else (None, "tensor")
  of_batch = NamedSharding(mesh, PartitionSpec("data"))
  of_matrix = NamedSharding(mesh, PartitionSpec(*spec))
  shardings = (of_batch, of_matrix)

  def of(hidden, matrix):
    made = output.Output(hidden, matrix, is_rows)
    nats, log_z = _chunked(made, targets, 64)
    return jnp.sum(nats * upstream[0] + log_z * upstream[1])

  gradient = jax.jit(
    jax.grad(of, wrt),
    in_shardings=shardings,
    out_shardings=tuple(shardings[i] for i in wrt),
  )
  compiled = gradient.lower(hidden, matrix).compile()
  found = compiled(*jax.device_put((hidden, matrix), shardings))
  inputs = (hidden, matrix, targets, upstream)
  _, expected = _gradients(_full, inputs, is_rows, None, None, wrt=wrt)
  _assert_close(found, expected)
  # A device holds a quarter of the matrix, and nothing larger.
  assert _largest(compiled.as_text()) == vocab * width // 4


def test_names_shapes_that_do_not_agree():
  of = output.Output(jnp.zeros((2, 3, 4)), jnp.zeros((5, 4)), True)
  with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 4\)"):
    chunked.token_nats(of, jnp.zeros((2, 4), jnp.int32))
  with pytest.raises(ValueError, match="chunk=0"):
    chunked.token_nats(of, jnp.zeros((2, 3), jnp.int32), chunk=0)
