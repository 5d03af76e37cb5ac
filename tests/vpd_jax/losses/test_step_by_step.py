"""The step-by-step loss: its values, and fused = plain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpd_jax import step
from vpd_jax.losses import fused, plain

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_xent_by_hand():
  # Two classes. Row 0: two tokens with p = 1/2 and 1/4; row 1: one token with
  # p = 3/4 and padding; row 2: no target at all.
  p = np.array([[[1, 1], [1, 3]], [[3, 1], [1, 1]], [[1, 1], [1, 1]]])
  logits = jnp.log(p.astype(np.float32))
  targets = jnp.array([[0, 0], [0, 0], [0, 0]])
  weights = jnp.array([[1, 1], [1, 0], [0, 0]], jnp.float32)
  nats, examples = plain.per_example_xent(logits, targets, weights)
  by_hand = (np.log(2) + np.log(4)) / 2 - np.log(0.75)
  np.testing.assert_allclose(nats, by_hand, rtol=1e-6)
  assert examples == 2


def test_xent_ignores_targets_of_weight_zero():
  logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  weights = jnp.array([[1, 1, 0], [1, 0, 0]], jnp.float32)
  one = jnp.array([[1, 2, 0], [3, 0, 0]])
  other = jnp.array([[1, 2, 4], [3, 4, 4]])
  for a, b in zip(
    plain.per_example_xent(logits, one, weights),
    plain.per_example_xent(logits, other, weights),
    strict=True,
  ):
    assert a == b


def test_xent_names_shapes_that_do_not_agree():
  with pytest.raises(ValueError, match=r"\(2, 3, 5\).*\(2, 4\)"):
    plain.per_example_xent(
      jnp.zeros((2, 3, 5)), jnp.zeros((2, 4), int), jnp.zeros((2, 4))
    )


@functools.cache
def _compiled(loss, rationale_weight):
  graphdef, params = tiny.pali()

  def of(params, batch):
    model = step.merge(graphdef, params)
    value, metrics = loss(model, batch, rationale_weight=rationale_weight)
    # 3: an upstream gradient other than 1.
    return 3 * value, metrics

  return params, jax.jit(jax.value_and_grad(of, has_aux=True))


def _value_and_grad(loss, batch, rationale_weight=1.0):
  params, function = _compiled(loss, rationale_weight)
  return function(params, batch)


@pytest.mark.parametrize("loss", [plain.step_by_step, fused.step_by_step])
def test_bfloat16_activations(loss):
  batch = tiny.on_device(tiny.batch())
  graphdef, params = tiny.pali()

  @functools.partial(jax.jit, static_argnames="dtype")
  def of(params, dtype):
    return loss(step.merge(graphdef, params), batch, dtype=dtype)[0]

  full, half = of(params, "float32"), of(params, "bfloat16")
  assert half.dtype == jnp.float32
  # bfloat16 has 8 bits.
  assert 0 < abs(full - half) / full < 1e-2


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("has_rationales", [True, False])
def test_fused_is_plain(weight, has_rationales):
  batch = tiny.batch()
  if not has_rationales:
    batch["rationale_weights"][:] = 0
  batch = tiny.on_device(batch)
  a = _value_and_grad(plain.step_by_step, batch, rationale_weight=weight)
  b = _value_and_grad(fused.step_by_step, batch, rationale_weight=weight)
  # float32: sums of some thousand terms in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), a, b
  )


def test_weight_scales_the_rationale_term_alone():
  batch = tiny.on_device(tiny.batch())
  (loss, metrics), _ = _value_and_grad(
    plain.step_by_step, batch, rationale_weight=0.5
  )
  by_hand = metrics["loss_label"] + 0.5 * metrics["loss_rationale"]
  np.testing.assert_allclose(loss, 3 * by_hand, rtol=1e-6)


def test_row_without_rationale_does_not_count():
  """Dropping the row that has none changes the rationale term nowhere."""
  batch = tiny.batch()
  rest = {key: np.delete(rows, 1, axis=0) for key, rows in batch.items()}
  with_row = _value_and_grad(plain.step_by_step, tiny.on_device(batch))[0][1]
  without = _value_and_grad(plain.step_by_step, tiny.on_device(rest))[0][1]
  np.testing.assert_allclose(
    with_row["loss_rationale"], without["loss_rationale"], rtol=1e-5
  )
  assert abs(with_row["loss_label"] - without["loss_label"]) > 1e-3


def test_rationale_gradient_reaches_the_image_tower():
  batch = tiny.batch()
  batch["label_weights"][:] = 0
  for loss in (plain, fused):
    _, grads = _value_and_grad(loss.step_by_step, tiny.on_device(batch))
    assert float(jnp.abs(grads["vit"]["stem"][0]["kernel"]).max()) > 0
