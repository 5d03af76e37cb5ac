"""The step-by-step loss: its values, and fused = plain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpd_jax import step
from vpd_jax.losses import fused, plain, terms
from vpd_jax.models.pali import model as pali

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


def test_terms_by_hand():
  """Means over 2 and 1 tokens, over 2 examples; a third has no target."""
  nats = jnp.array([[1.0, 3], [5, 9], [7, 7]])
  log_z = jnp.array([[1.0, 2], [3, 9], [9, 9]])
  weights = jnp.array([[1.0, 1], [1, 0], [0, 0]])
  sums = terms.sum_examples(nats, log_z, weights)
  assert sums == (2 + 5, 2.5 + 9, 3)
  loss, metrics = terms.combine(
    sums,
    terms.Sums(*map(jnp.float32, (8, 6, 4))),
    {"label": jnp.float32(2), "rationale": jnp.float32(0)},
    rationale_weight=0.5,
    z_loss=0.1,
  )
  # No example has a rationale: 8 is divided by 1.
  by_hand = {
    "loss_label": 3.5,
    "loss_rationale": 8,
    "z_loss": 0.1 * (5.75 + 0.5 * 6),
    "tokens": 7,
  }
  by_hand["loss"] = 3.5 + 4 + by_hand["z_loss"]
  assert metrics["loss"] == loss
  assert metrics.keys() == by_hand.keys()
  for name, value in by_hand.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6)


def test_totals_count_examples():
  weights = jnp.array([[1.0, 1], [1, 0], [0, 0]])
  batch = {"label_weights": weights, "rationale_weights": weights * 0}
  for loss in (plain, fused):
    assert loss.totals(batch) == {"label": 2, "rationale": 0}


@functools.cache
def _compiled(loss, is_head_tied, sizes, options):
  graphdef, params = tiny.pali(is_head_tied=is_head_tied, **dict(sizes))

  def of(params, batch):
    model = step.merge(graphdef, params)
    value, metrics = loss(model, batch, **dict(options))
    # 3: an upstream gradient other than 1.
    return 3 * value, metrics

  return params, jax.jit(jax.value_and_grad(of, has_aux=True))


def _value_and_grad(loss, batch, is_head_tied=False, sizes=(), **options):
  options = {"rationale_weight": 1.0} | options
  if loss is fused.step_by_step:
    options = {"chunk": 16} | options
  options = tuple(sorted(options.items()))
  params, function = _compiled(loss, is_head_tied, sizes, options)
  return function(params, batch)


def _assert_fused_is_plain(batch, chunk=16, **options):
  batch = tiny.on_device(batch)
  found = _value_and_grad(fused.step_by_step, batch, chunk=chunk, **options)
  # float32: sums of some thousand terms in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    found,
    _value_and_grad(plain.step_by_step, batch, **options),
  )
  return found


def _grouped(batch, questions):
  """Only every so many-th image, for as many rows of text."""
  return batch | {"image": batch["image"][::questions]}


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


@pytest.mark.parametrize("weight", [0.3, 0.0])
@pytest.mark.parametrize("has_rationales", [True, False])
def test_fused_is_plain(weight, has_rationales):
  batch = tiny.batch()
  if not has_rationales:
    batch["rationale_weights"][:] = 0
  (_, metrics), _ = _assert_fused_is_plain(batch, rationale_weight=weight)
  used = ["label", "rationale"] if weight else ["label"]
  tokens = sum(batch[f"{name}_weights"].sum() for name in used)
  assert metrics["tokens"] == tokens
  assert ("loss_rationale" in metrics) == bool(weight)
  if weight and not has_rationales:
    assert metrics["loss_rationale"] == 0
    assert metrics["loss"] == metrics["loss_label"]


@pytest.mark.parametrize("chunk,is_head_tied", [(16, True), (4096, False)])
def test_fused_is_plain_with_z_loss(chunk, is_head_tied):
  (_, metrics), _ = _assert_fused_is_plain(
    tiny.batch(), chunk, is_head_tied=is_head_tied, z_loss=0.1
  )
  by_hand = metrics["loss_label"] + metrics["loss_rationale"]
  np.testing.assert_allclose(
    metrics["loss"], by_hand + metrics["z_loss"], rtol=1e-6
  )
  assert metrics["z_loss"] > 0.1


@pytest.mark.parametrize("rows,questions", [(1, 1), (8, 4)])
def test_fused_is_plain_for_groups(rows, questions):
  """One example; questions that share one of two images."""
  batch = tiny.batch(max(rows, 2))
  batch = {name: x[:rows] for name, x in batch.items()}
  _assert_fused_is_plain(_grouped(batch, questions))


def _cut(batch, grids, room):
  """The batch with random patches in these grids, in as many as `room`."""
  rng = np.random.default_rng(5)
  grid = np.array(grids, np.int32)
  mask = np.arange(room) < grid.prod(1)[:, None]
  pixels = rng.integers(0, 256, (*mask.shape, 4 * 4 * 3)).astype(np.uint8)
  parts = {"image": pixels, "image_mask": mask, "image_grid": grid}
  return tiny.on_device(batch | parts)


NAFLEX = (("has_naflex_vit", True), ("stem", ((4, 8),)))


def test_fused_is_plain_for_pictures_of_their_own_shapes():
  """Two, with two questions each; what lies in padding matters nowhere."""
  batch = _cut(tiny.batch(), [(2, 3), (4, 2)], 9)
  found = _value_and_grad(fused.step_by_step, batch, sizes=NAFLEX)
  np.testing.assert_array_less(0, jnp.abs(found[1]["vit"]["positions"]).max())
  other = batch["image"].at[:, 8].set(99)
  same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  for loss, image in ((plain, batch["image"]), (fused, other)):
    again = _value_and_grad(
      loss.step_by_step, batch | {"image": image}, sizes=NAFLEX
    )
    jax.tree.map(same, found, again)


def test_fused_is_plain_with_prompts_apart():
  batch = tiny.on_device(_grouped(tiny.batch(), 2))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    _value_and_grad(fused.step_by_step, batch, prompts_apart=True),
    _value_and_grad(plain.step_by_step, batch),
  )


@pytest.mark.parametrize("prompts_apart,rows", [(False, [8]), (True, [4, 4])])
def test_prompts_are_one_batch_or_two(prompts_apart, rows, monkeypatch):
  encode, seen = pali.Model.encode, []

  def spy(model, image_BPD, prompt_BT, key=None):
    seen.append(len(prompt_BT))
    return encode(model, image_BPD, prompt_BT, key)

  monkeypatch.setattr(pali.Model, "encode", spy)
  graphdef, params = tiny.pali()
  jax.eval_shape(
    lambda params, batch: fused.step_by_step(
      step.merge(graphdef, params), batch, prompts_apart=prompts_apart
    ),
    params,
    tiny.on_device(tiny.batch()),
  )
  assert seen == rows


@pytest.mark.parametrize("loss", [plain.step_by_step, fused.step_by_step])
def test_group_is_its_questions_apart(loss):
  """Each with a copy of the image; a filler row counts nowhere."""
  batch = tiny.batch(8)
  apart = batch | {"image": np.repeat(batch["image"][::4], 4, axis=0)}
  for name in ("label_weights", "rationale_weights"):
    batch[name][7] = 0
  rest = {name: np.delete(x, 7, axis=0) for name, x in apart.items()}
  grouped = _value_and_grad(loss, tiny.on_device(_grouped(batch, 4)))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    grouped,
    _value_and_grad(loss, tiny.on_device(rest)),
  )


@pytest.mark.parametrize("loss", [plain, fused])
def test_parts_of_a_batch_add_up(loss):
  """One part has two of three rationales."""
  batch = tiny.on_device(tiny.batch())
  graphdef, params = tiny.pali()
  of_whole = loss.totals(batch)
  assert of_whole["rationale"] == 3

  @jax.jit
  def of(params, batch):
    def value(params):
      model = step.merge(graphdef, params)
      return loss.step_by_step(model, batch, totals=of_whole, z_loss=0.01)

    return jax.grad(value, has_aux=True)(params)

  parts = [
    of(params, {name: x[rows] for name, x in batch.items()})
    for rows in (slice(0, 2), slice(2, 4))
  ]
  jax.tree.map(
    lambda whole, *parts: np.testing.assert_allclose(
      sum(parts), whole, rtol=1e-5, atol=1e-5
    ),
    of(params, batch),
    *parts,
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
