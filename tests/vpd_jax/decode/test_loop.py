"""Greedy and drawn generation against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vpd_jax.decode import fakes
from vpd_jax import step
from vpd_jax.decode import compiled, loop, score

EOS, TOKENS = 1, 6
DRAWN = {"temperature": 1.5, "top_k": 20, "top_p": 0.9}

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def generate(parts, *arrays, max_new_tokens=TOKENS, eos_id=EOS, **options):
  graphdef, params = parts
  arrays_by_name = {"key": options.pop("key")} if "key" in options else {}
  function = compiled.of(
    loop.generate,
    graphdef,
    max_new_tokens=max_new_tokens,
    eos_id=eos_id,
    **options,
  )
  return jax.tree.map(np.asarray, function(params, *arrays, **arrays_by_name))


@pytest.fixture(scope="module")
def definition(parts, inputs):
  """eos_id -> int32[B, T]: argmax of the full forward, again and again."""
  graphdef, params = parts
  forward = jax.jit(
    lambda params, *arrays: step.merge(graphdef, params)(*arrays)
  )

  def of(eos_id):
    out = np.zeros((len(inputs[1]), TOKENS), np.int32)
    for position in range(TOKENS):
      logits = forward(params, *inputs, jnp.asarray(out))
      token = np.asarray(jnp.argmax(logits[:, position], -1))
      has_ended = (out == eos_id).any(1)
      out[:, position] = np.where(has_ended, 0, token)
    return out

  return of


def test_greedy_is_argmax_of_the_full_forward(parts, inputs, definition):
  found = generate(parts, *inputs)
  np.testing.assert_array_equal(found.tokens[:, 0], definition(EOS))


def test_a_row_that_ends_is_padded(parts, inputs, definition):
  # The second token of row 0 as the end: some rows end, others do not.
  expected = definition(eos_id := int(definition(EOS)[0, 1]))
  found = generate(parts, *inputs, eos_id=eos_id)
  np.testing.assert_array_equal(found.tokens[:, 0], expected)
  has_ended = (expected == eos_id).any(axis=1)
  assert has_ended[0] and not has_ended.all()
  assert found.tokens[0, 0, 1] == eos_id and not found.tokens[0, 0, 2:].any()
  ends = (expected == eos_id).argmax(axis=1) + 1
  np.testing.assert_array_equal(
    found.lengths[:, 0], np.where(has_ended, ends, TOKENS)
  )


def test_greedy_by_itself_is_the_same(parts, inputs, definition):
  function = compiled.of(
    loop.greedy, parts[0], max_new_tokens=TOKENS, eos_id=EOS
  )
  found = function(parts[1], *inputs)
  np.testing.assert_array_equal(found, definition(EOS))


@pytest.mark.parametrize("settings", [{}, DRAWN | {"samples": 3}], ids=str)
def test_log_probs_are_those_of_the_full_forward(parts, inputs, settings):
  if settings:
    settings = settings | {"key": jax.random.key(0)}
  found = generate(parts, *inputs, eos_id=7, **settings)
  weights = np.arange(TOKENS) < found.lengths[..., None]
  scores = compiled.of(score.score_options, parts[0])(
    parts[1], *inputs, jnp.asarray(found.tokens), weights.astype(np.float32)
  )
  # float32 over six tokens.
  np.testing.assert_allclose(found.log_probs, scores.sum, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_drawn", [False, True])
def test_rows_know_neither_neighbours_nor_padding(parts, inputs, is_drawn):
  settings = DRAWN | {"samples": 2, "key": jax.random.key(4)}
  settings = settings if is_drawn else {}
  image, prompt = inputs
  together = generate(parts, image, prompt, **settings)
  longer = jnp.pad(prompt[:2], ((0, 0), (0, 3)))
  alone = generate(parts, image[:2], longer, **settings)
  np.testing.assert_array_equal(together.tokens[:2], alone.tokens)
  np.testing.assert_allclose(together.log_probs[:2], alone.log_probs, atol=1e-5)


def test_more_samples_leave_the_first_as_they_were(parts, inputs):
  key = jax.random.key(2)
  few = generate(parts, *inputs, samples=2, temperature=1.0, key=key)
  many = generate(parts, *inputs, samples=4, temperature=1.0, key=key)
  np.testing.assert_array_equal(few.tokens, many.tokens[:, :2])
  assert (many.tokens[:, 0] != many.tokens[:, 1]).any(axis=1).all()
  other = generate(
    parts, *inputs, samples=2, temperature=1.0, key=jax.random.key(3)
  )
  assert (few.tokens != other.tokens).any()


def test_cold_draws_are_greedy(parts, inputs, definition):
  found = generate(
    parts, *inputs, samples=2, temperature=1e-4, key=jax.random.key(0)
  )
  for sample in range(2):
    np.testing.assert_array_equal(found.tokens[:, sample], definition(EOS))


def test_an_example_is_encoded_and_held_once(parts, inputs, shapes):
  """However many its samples: no array has rows, length and width."""
  samples = 64
  image, prompt = inputs[0][:2], inputs[1][:2]
  found = shapes(
    lambda model, *arrays: loop.generate(
      model,
      *arrays[:2],
      max_new_tokens=2,
      eos_id=EOS,
      samples=samples,
      temperature=1.0,
      key=arrays[2],
    ),
    parts,
    image,
    prompt,
    jax.random.key(0),
  )
  decoder = step.merge(*parts).decoder
  length = 9 + prompt.shape[1]
  one = (decoder.heads, length, decoder.head_width)
  assert (2, *one) in found
  assert (2 * samples, decoder.heads * decoder.head_width) in {
    (shape[0], shape[-1]) for shape in found
  }
  for shape in found:
    assert np.prod(shape) < 2 * samples * np.prod(one), shape


def test_bfloat16_activations(parts, inputs):
  single = generate(parts, *inputs)
  half = generate(parts, *inputs, dtype=jnp.bfloat16)
  first = single.tokens[:, 0, 0] == half.tokens[:, 0, 0]
  assert first.mean() > 0.6
  same = (single.tokens == half.tokens).all(axis=(1, 2))
  difference = np.abs(single.log_probs - half.log_probs)[same]
  # bfloat16 has 8 bits; logits are of a few units.
  assert 0 < difference.max() < 0.2


def test_an_empty_prompt_changes_no_other_row(parts, inputs):
  image, prompt = inputs
  found = generate(parts, image, prompt.at[1].set(0))
  plain = generate(parts, image, prompt)
  assert np.isfinite(found.log_probs).all()
  others = [0, 2, 3, 4, 5]
  np.testing.assert_array_equal(found.tokens[others], plain.tokens[others])


def test_no_examples():
  with pytest.raises(ValueError, match=r"prompt is \[0, 4\]: no example"):
    by_hand(np.zeros((0, 4)), max_new_tokens=1)


# After 0: 1 or 2 or 3; after 2: 3; after 3: 1, mostly.
CHAIN = [
  [0.0, 0.2, 0.5, 0.3],
  [0.25, 0.25, 0.25, 0.25],
  [0.0, 0.1, 0.0, 0.9],
  [0.1, 0.6, 0.1, 0.2],
]


def by_hand(prompt, **options):
  chain = fakes.Chain(CHAIN)
  found = loop.generate(
    chain, None, jnp.array(prompt, jnp.int32), eos_id=EOS, **options
  )
  jax.effects_barrier()
  return found, sorted(chain.steps)


def test_the_loop_stops_when_all_rows_have_ended():
  found, steps = by_hand([[2], [3]], max_new_tokens=9)
  assert found.tokens[:, 0].tolist() == [[3, 1] + [0] * 7, [1] + [0] * 8]
  assert found.lengths.tolist() == [[2], [1]]
  np.testing.assert_allclose(
    found.log_probs[:, 0], np.log([0.9 * 0.6, 0.6]), rtol=1e-6
  )
  assert steps == [0, 1]


def test_all_rows_end_at_the_first_step():
  found, steps = by_hand([[3], [3], [3]], max_new_tokens=9, pad_id=2)
  assert found.tokens[:, 0].tolist() == [[1] + [2] * 8] * 3
  assert found.lengths.tolist() == [[1]] * 3 and steps == [0]


def test_rows_are_cut_at_the_most_tokens():
  found, steps = by_hand([[0]], max_new_tokens=2)
  assert found.tokens.tolist() == [[[2, 3]]] and steps == [0, 1]
  assert found.lengths.tolist() == [[2]]


def test_a_least_length():
  # After 3 comes 3 where it may not end.
  found, _ = by_hand([[3]], max_new_tokens=5, min_new_tokens=2)
  assert found.tokens.tolist() == [[[3, 3, 1, 0, 0]]]
  # In the model's own distribution.
  expected = np.log(0.2 * 0.2 * 0.6)
  np.testing.assert_allclose(found.log_probs, [[expected]], rtol=1e-6)


def test_forbidden_tokens():
  found, _ = by_hand([[0]], max_new_tokens=3, forbidden_ids=(2,))
  assert found.tokens.tolist() == [[[3, 1, 0]]]


def test_samples_are_distributed_as_the_model():
  """Pairs of tokens: draws of two positions must not hang together."""
  samples = 8000
  found, _ = by_hand(
    [[0], [2]],
    max_new_tokens=2,
    samples=samples,
    temperature=1.0,
    key=jax.random.key(11),
  )
  table = np.array(CHAIN)
  for row, start in enumerate((0, 2)):
    pairs = np.asarray(found.tokens[row])
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    expected = table[start][:, None] * table
    expected[EOS] = table[start, EOS] * np.array([1, 0, 0, 0])  # Padding.
    expected *= samples
    can_be = expected > 0
    assert not counts[~can_be].any()
    chi2 = np.sum((counts - expected)[can_be] ** 2 / expected[can_be])
    # At most 8 degrees of freedom: 99.9% of fair draws are under this.
    assert chi2 < 26.12, (start, chi2)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
    ({"min_new_tokens": 9}, "min_new_tokens=9 is not in 0..4"),
    ({"samples": 0}, "samples=0 must be at least 1"),
    ({"samples": 2}, "need a temperature over 0"),
    ({"top_k": 3}, "need a temperature over 0"),
    ({"temperature": 0.5}, "temperature=0.5 needs a key"),
    (
      {"temperature": -1.0, "top_k": None},
      "temperature=-1.0 must not be negative",
    ),
    ({"dtype": jnp.bfloat16}, "dtype=bfloat16 needs an image"),
  ],
  ids=str,
)
def test_settings_that_do_not_go(options, message):
  with pytest.raises(ValueError, match=message):
    by_hand([[0]], **({"max_new_tokens": 4} | options))
