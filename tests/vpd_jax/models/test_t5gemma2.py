"""T5Gemma 2: laws of the whole; its sizes, names and config.json."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpd_jax import trees
from vpd_jax.decode import loop
from vpd_jax.models.t5gemma2 import hf_config, params, sizes
from vpd_jax.models.t5gemma2.model import Model

VOCAB = 40
ROUNDING = 5e-5  # Of logits of unit scale: their sums in another order.
pytestmark = pytest.mark.usefixtures("strict_dtypes")


def make(**changes):
  return Model(vocab_size=VOCAB, **(sizes.get("debug") | changes))


@pytest.fixture(scope="module")
def model():
  made = make()
  # Norms that multiply by one would hide which is used where.
  for _, variable in nnx.iter_graph(made):
    if isinstance(variable, nnx.Param) and not jnp.any(variable[...]):
      shape = variable[...].shape
      variable[...] = 0.3 * jax.random.normal(jax.random.key(len(shape)), shape)
  return made


@pytest.fixture(scope="module")
def inputs():
  """Image, prompt and target of three examples."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
  prompt = rng.integers(6, VOCAB, (3, 9)) * (np.arange(9) < [[9], [4], [7]])
  target = rng.integers(3, VOCAB, (3, 8))
  prompt, target = (jnp.asarray(x, jnp.int32) for x in (prompt, target))
  return jnp.asarray(image), prompt, target


def forward(model, *inputs):
  """The whole model, compiled once for all that differ in arrays only."""
  return _forward(*nnx.split(model), *inputs)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, *inputs):
  return nnx.merge(graphdef, state)(*inputs)


def compiled(model, function, *inputs):
  """function(model, *inputs), compiled."""
  graphdef, state = nnx.split(model)
  return jax.jit(lambda s, *x: function(nnx.merge(graphdef, s), *x))(
    state, *inputs
  )


def test_padding_of_the_prompt_changes_nothing(model, inputs):
  image, prompt, target = inputs
  padded = jnp.pad(prompt, ((0, 0), (0, 5)))
  np.testing.assert_allclose(
    forward(model, image, prompt, target),
    forward(model, image, padded, target),
    atol=ROUNDING,
  )


def test_a_target_token_changes_only_what_comes_after_it(model, inputs):
  image, prompt, target = inputs
  changed = target.at[:, 4].set(target[:, 4] % (VOCAB - 1) + 1)
  a, b = (forward(model, image, prompt, t) for t in (target, changed))
  # The token at 4 is the decoder's input at 5.
  np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-6)
  assert float(jnp.abs(a[:, 5:] - b[:, 5:]).max()) > 1e-3


def test_image_and_prompt_are_both_read(model, inputs):
  image, prompt, target = inputs
  logits = forward(model, *inputs)
  assert logits.shape == (3, 8, VOCAB) and logits.dtype == jnp.float32
  for other in ((255 - image, prompt), (image, prompt[::-1])):
    difference = jnp.abs(logits - forward(model, *other, target)).max()
    assert float(difference) > 1e-3


def test_cached_decoding_is_the_full_forward_for_every_row(model, inputs):
  """Rows that share an example too, whose keys are there once."""
  image, prompt, target = inputs
  rows = jnp.concatenate([target, target[:, ::-1]], axis=1).reshape(6, 8)
  graphdef, state = nnx.split(model)

  @jax.jit
  def full(state):
    model = nnx.merge(graphdef, state)
    encoded = model.encode(model.encode_image(image), prompt)
    return model.logits(model.decode(*encoded, rows)), model.context(*encoded)

  @jax.jit
  def step(state, token, position, context, cache):
    return nnx.merge(graphdef, state).decode_next(
      token, position, context, cache
    )

  expected, context = full(state)
  assert context.keys.shape == (2, 3, 2 + 4 + 1 + 9, 2, 8)
  repeated = forward(
    model, *(jnp.repeat(x, 2, axis=0) for x in (image, prompt)), rows
  )
  np.testing.assert_allclose(expected, repeated, atol=ROUNDING)
  cache = model.init_cache(6, 8)
  token = jnp.full((6,), model.start_id, jnp.int32)
  for position in range(8):
    logits_RV, cache = step(state, token, jnp.asarray(position), context, cache)
    np.testing.assert_allclose(logits_RV, expected[:, position], atol=ROUNDING)
    token = rows[:, position]


def test_scanned_is_unrolled(model, inputs):
  scanned = make(is_scanned=True, remat="full")
  nnx.update(scanned, nnx.state(model))
  np.testing.assert_allclose(
    forward(scanned, *inputs), forward(model, *inputs), atol=ROUNDING
  )


def encoded_change(model, prompt, at):
  """How much each token's encoded vector changes with the token at `at`."""
  other = prompt.at[:, at].set(prompt[:, at] % (VOCAB - 1) + 1)
  both = jnp.concatenate([prompt, other])
  a, b = compiled(model, lambda m, p: m.encode(None, p)[0], both)
  return np.asarray(jnp.abs(a - b).max(1))


@pytest.mark.parametrize("window", [4, 5])
def test_local_layers_see_half_a_window_on_either_side(window):
  prompt = jnp.arange(6, 18, dtype=jnp.int32)[None]
  local = make(encoder_depth=1, global_every=6, window=window)
  changed = encoded_change(local, prompt, 5) > 1e-6
  # Who sees position 5: w = 4: 1 before itself and 2 after; 5: 2 and 2.
  left, right = {4: (1, 2), 5: (2, 2)}[window]
  seen = np.arange(12) - 5
  np.testing.assert_array_equal(changed, (seen <= left) & (-seen <= right))
  whole = make(encoder_depth=1, global_every=1, window=window)
  assert (encoded_change(whole, prompt, 5) > 1e-6).all()


def test_decoder_sees_a_window_of_itself_and_all_of_the_encoder(inputs):
  image, prompt, _ = inputs
  model = make(decoder_depth=1, global_every=6, window=4)
  target = jnp.tile(jnp.arange(6, 18, dtype=jnp.int32)[None], (3, 1))
  changed = target.at[:, 3].set(30)
  a, b = (forward(model, image, prompt, t) for t in (target, changed))
  difference = np.asarray(jnp.abs(a - b).max((0, 2)))
  # Token 3 is the input at 4, seen from 4, 5, 6 and 7.
  np.testing.assert_array_equal(
    difference > 1e-6, [4 <= t < 8 for t in range(12)]
  )

  def last(model, change):
    """Of a late position, far from any encoded one."""
    encoded, mask = model.encode(model.encode_image(image), prompt)
    return model.decode(encoded.at[:, 0].add(change), mask, target)[:, -1]

  a, b = compiled(model, jax.vmap(last, (None, 0)), jnp.asarray([0.0, 1.0]))
  assert float(jnp.abs(a - b).max()) > 1e-4


def test_the_end_of_an_image_has_its_own_unscaled_vector(model):
  tokens = jnp.asarray([[7, 4]], jnp.int32)
  x = model._embed(tokens)
  np.testing.assert_allclose(x[0, 0], model.embedding.table[...][7] * 4.0)
  np.testing.assert_array_equal(x[0, 1], model.end_of_image[...])


def test_an_image_is_the_mean_of_squares_in_reading_order(model):
  from vpd_jax.models.t5gemma2 import model as module

  grid = jnp.arange(16.0).reshape(1, 16, 1)
  averaged = module._average(grid, 4, 2)
  # 0 1 4 5 | 2 3 6 7 | 8 9 12 13 | 10 11 14 15
  np.testing.assert_array_equal(averaged[0, :, 0], [2.5, 4.5, 10.5, 12.5])
  image = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.uint8)
  assert jax.eval_shape(model.encode_image, image).shape == (2, 4, 16)


def test_bfloat16_activations(model, inputs):
  def run(model, image, prompt, target):
    encoded, mask = model.encode(
      model.encode_image(image, jnp.bfloat16), prompt
    )
    hidden = model.decode(encoded, mask, target)
    context = model.context(encoded, mask)
    first, cache = model.decode_next(
      jnp.full((3,), 2, jnp.int32),
      jnp.asarray(0),
      context,
      model.init_cache(3, 4, jnp.bfloat16),
    )
    for x in (encoded, hidden, context.keys, context.values, *cache):
      assert x.dtype == jnp.bfloat16
    return model.logits(hidden), first

  logits, first = compiled(model, run, *inputs)
  assert logits.dtype == first.dtype == jnp.float32
  exact = forward(model, *inputs)
  # Logits are of unit scale; bfloat16 rounds each layer by 2**-9 of it.
  assert 1e-4 < float(jnp.abs(logits - exact).mean()) < 4e-2
  assert float(jnp.abs(first - exact[:, 0]).mean()) < 4e-2


def test_generation_starts_with_bos(model, inputs):
  image, prompt, _ = inputs
  options = dict(max_new_tokens=4, eos_id=1)
  tokens = compiled(
    model, lambda m, *x: loop.greedy(m, *x, **options), image, prompt
  )
  logits = forward(model, image, prompt, tokens)
  chosen = np.asarray(logits.argmax(-1))
  is_real = np.cumsum(np.asarray(tokens) == 1, axis=1) == 0
  np.testing.assert_array_equal(chosen[is_real], np.asarray(tokens)[is_real])


def shapes_of(options):
  """Our name -> shape, of a model that is not made."""
  model = nnx.eval_shape(lambda: Model(**options))
  state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  return {k: v.shape for k, v in trees.flatten_with_names(state).items()}


# Millions of parameters: embedding, each stack, image tower.
# Source: T5Gemma 2, arXiv:2512.14856, table 1.
PUBLISHED = {
  "270m_270m": (168, 100, 417),
  "1b_1b": (302, 698, 417),
  "4b_4b": (675, 3209, 417),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_have_the_published_numbers_of_parameters(size):
  shapes = shapes_of(sizes.get(size) | {"vocab_size": 262_144})

  def millions(*prefixes):
    return (
      sum(
        np.prod(s, dtype=np.int64)
        for name, s in shapes.items()
        if name.startswith(prefixes)
      )
      / 1e6
    )

  embedding, stack, tower = PUBLISHED[size]
  assert millions("embedding") == pytest.approx(embedding, rel=0.01)
  assert millions("encoder") == pytest.approx(stack, rel=0.01)
  assert millions("decoder") == pytest.approx(stack, rel=0.01)
  assert millions("vit") == pytest.approx(tower, rel=0.015)


@pytest.mark.parametrize("size", sizes.SIZES)
def test_every_array_has_a_name_elsewhere_and_config_json_the_options(size):
  options = sizes.get(size) | {"vocab_size": 262_144}
  shapes = shapes_of(options)
  table = params.table(options, "model")
  assert sorted(r.name for r in table.renames) == sorted(shapes)
  theirs = [name for r in table.renames for name in r.names()]
  assert len(set(theirs)) == len(theirs)
  config = hf_config.config(options, "model", rows=262_144)
  found = hf_config.options(config)
  assert found == {name: options.get(name, default(name)) for name in found}


def default(name):
  return inspect.signature(Model.__init__).parameters[name].default


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(image_tokens=5), r"image_tokens=5 .* 4 x 4 patches; \[1, 4, 16\]"),
    (dict(image_tokens=9), "image_tokens=9"),
    (dict(image_start=(2, 255_999)), "image_start=.* 40 rows"),
    (dict(image_end=(40,)), "image_end=.* 40 rows"),
    (dict(end_of_image_id=-1), "end_of_image_id="),
    (dict(kv_heads=3), "kv_heads=3"),
  ],
)
def test_options_that_cannot_be(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)


def test_unknown_size():
  with pytest.raises(KeyError, match=r"no size '2b_2b'.*270m_270m"):
    sizes.get("2b_2b")


def put(config, path, value):
  """A copy with one field, named as a.b.c, of another value."""
  first, _, rest = path.partition(".")
  value = put(config.get(first, {}), rest, value) if rest else value
  return config | {first: value}


@pytest.mark.parametrize(
  "path, value, message",
  [
    ("model_type", "t5gemma", "model_type='t5gemma'"),
    ("tie_word_embeddings", False, "tie_word_embeddings=False"),
    ("decoder.attn_logit_softcapping", 50.0, "attn_logit_softcapping=50.0"),
    ("decoder.rms_norm_eps", 1e-5, "decoder.rms_norm_eps=1e-05"),
    ("decoder.sliding_window", 8, "window=4 of the encoder and 8"),
    ("decoder.layer_types", ["full_attention"] * 2, "layer_types"),
    (
      "decoder.rope_parameters",
      {"full_attention": {"rope_type": "yarn"}},
      "'yarn' for its full_attention",
    ),
    ("encoder.vision_config.model_type", "clip", "'clip'"),
    ("encoder.vision_config.hidden_act", "gelu", "hidden_act='gelu'"),
  ],
)
def test_config_json_of_what_is_not_computed(path, value, message):
  options = sizes.get("debug") | {"vocab_size": VOCAB}
  config = hf_config.config(options, "model", rows=VOCAB)
  assert hf_config.options(config)["window"] == 4
  with pytest.raises(ValueError, match=message):
    hf_config.options(put(config, path, value))


def test_config_json_of_older_versions():
  """Rotary fields as Gemma 3 had them, and no list of layers."""
  old = dict(
    rope_theta=1e5,
    rope_local_base_freq=1e3,
    rope_scaling={"type": "linear", "factor": 8.0},
    sliding_window_pattern=3,
    num_hidden_layers=7,
  )
  config = {
    "model_type": "t5gemma2",
    "encoder": {"text_config": old},
    "decoder": old,
  }
  found = hf_config.options(config)
  assert found["rope_base_global"] == 1e5 and found["rope_base_local"] == 1e3
  assert found["rope_stretch_global"] == 8.0 and found["global_every"] == 3
