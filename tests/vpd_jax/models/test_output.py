"""Every family's output: its logits are those of its own matrix; its losses."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tiny
from vpd_jax.losses import fused, plain
from vpd_jax.models import lora, output, quantized

FAMILIES = {
  "pali": {},
  "pali tied": dict(is_head_tied=True),
  "t5gemma2": dict(logit_softcap=2.0),
  "paligemma": dict(logits_softcap=2.0),
  "blip2": dict(image_size=48, patch_size=16),
}


def _make(case, **changes):
  name = case.split()[0]
  family, sizes = (
    importlib.import_module(f"vpd_jax.models.{name}.{part}")
    for part in ("model", "sizes")
  )
  options = sizes.get("debug") | FAMILIES[case] | changes
  return family.Model(vocab_size=tiny.VOCAB, **options)


def _hidden(dtype=jnp.float32, width=16, rows=3):
  return jax.random.normal(jax.random.key(0), (2, rows, width)).astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", FAMILIES)
def test_logits_are_products_with_the_matrix(case, dtype):
  """Bit by bit what the family's own layers give, for more than a few rows."""
  model, hidden = _make(case), _hidden(dtype, rows=20)
  softcap = FAMILIES[case].get("logit_softcap")
  softcap = softcap or FAMILIES[case].get("logits_softcap")
  if case in ("pali", "blip2"):
    expected = model.head(hidden)
  else:
    scale = 0.25 if case == "pali tied" else 1.0
    expected = model.embedding.scores(hidden * scale)
  expected = expected.astype(jnp.float32)
  if softcap:
    expected = softcap * jnp.tanh(expected / softcap)
  found = model.logits(hidden)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, expected)
  assert model.output(hidden).vocab_size == found.shape[-1]


@pytest.mark.parametrize("rows", [1, 2, 32, 33])
def test_any_number_of_rows_gives_the_same(rows):
  rng = np.random.default_rng(0)
  matrix, hidden, upstream = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((40, 16), (rows, 1, 16), (rows, 1, 40))
  )

  @jax.jit
  def made(hidden, matrix):
    return output.Output(hidden, matrix, is_rows=True).logits()

  found, back = jax.vjp(made, hidden, matrix)
  np.testing.assert_allclose(found, hidden @ matrix.T, rtol=1e-5, atol=1e-5)
  of_hidden, of_matrix = back(upstream)
  np.testing.assert_allclose(of_hidden, upstream @ matrix, rtol=1e-5, atol=1e-5)
  expected = np.einsum("RTV,RTD->VD", upstream, hidden)
  np.testing.assert_allclose(of_matrix, expected, rtol=1e-5, atol=1e-5)
  # A few rows, and no others, are the right side of the product.
  is_turned = "optimization_barrier" in made.lower(hidden, matrix).as_text()
  assert is_turned == (rows in (2, 32))


# A tied PaLI's is in losses/test_step_by_step.
@pytest.mark.parametrize("case", sorted(set(FAMILIES) - {"pali tied"}))
def test_fused_is_plain(case):
  graphdef, params = nnx.split(_make(case), nnx.Param)
  batch = tiny.on_device(tiny.batch())

  def of(params, batch, loss, **options):
    value, metrics = loss(nnx.merge(graphdef, params), batch, **options)
    return 2 * value + metrics["loss_rationale"], metrics

  def gradient(loss, **options):
    found = functools.partial(of, loss=loss, z_loss=0.1, **options)
    return jax.jit(jax.value_and_grad(found, has_aux=True))(params, batch)

  # 40 tokens in 8 groups of 5, 2 of each at a time.
  found = gradient(fused.step_by_step, chunk=16)
  # float32: sums of some thousand terms in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    found,
    gradient(plain.step_by_step),
  )


def test_update_of_a_head_is_in_the_matrix():
  model, hidden = _make("pali"), _hidden()
  before = model.logits(hidden)
  lora.add(model, ["head"], rank=2, alpha=4.0)
  b = model.head.lora.b
  b[...] = jax.random.normal(jax.random.key(1), b.shape)
  found = model.logits(hidden)
  assert float(jnp.abs(found - before).max()) > 0.1
  # float32: the update is multiplied in another order.
  np.testing.assert_allclose(found, model.head(hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", quantized.DTYPES)
def test_quantized_head_is_made_float(dtype):
  model, hidden = _make("pali"), _hidden(jnp.bfloat16)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  quantized.replace(model, quantized.kernels(params, dtype))
  np.testing.assert_array_equal(
    model.logits(hidden), model.head(hidden).astype(jnp.float32)
  )
