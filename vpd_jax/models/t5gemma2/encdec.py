"""T5Gemma 2's encoder and decoder: stacks of Gemma 3's blocks.

Of every `global_every` layers the last sees everything, the others a window;
the two kinds differ in their rotary frequencies too. What differs is given to
the layers as arrays, so that they scan all the same.

The decoder's one attention looks back at its own tokens and across at the
encoder's in one softmax, with one set of projections. Drawn for three own
tokens and two encoded ones, the second of them padding; rows are queries:

    own     encoded
    1 0 0   1 0
    1 1 0   1 0
    1 1 1   1 0

Source: Zhang et al., T5Gemma 2, arXiv:2512.14856.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpd_jax.models import gemma, layers, stack


@dataclasses.dataclass(frozen=True)
class Shape:
  """What encoder and decoder have in common; `model.Model` says what is what."""

  width: int
  heads: int
  kv_heads: int
  head_width: int
  mlp_width: int
  query_width: int
  window: int
  global_every: int
  rope_base_local: float
  rope_base_global: float
  rope_stretch_global: float
  is_scanned: bool
  remat: str

  def blocks(self, depth: int, rngs: layers.Keys) -> gemma.Block:
    """So many blocks, stacked."""
    return stack.make(
      lambda rngs: gemma.Block(
        self.width,
        self.heads,
        self.kv_heads,
        self.head_width,
        self.mlp_width,
        query_scale=self.query_width**-0.5,
        has_qk_norm=True,
        has_post_norms=True,
        rngs=rngs,
      ),
      depth,
      rngs,
    )

  def per_layer(self, depth: int) -> "Layer":
    """The facts of each layer, with a leading axis of them."""
    is_global = np.arange(1, depth + 1) % self.global_every == 0
    frequencies = gemma.frequencies(
      self.head_width,
      np.where(is_global, self.rope_base_global, self.rope_base_local),
      np.where(is_global, self.rope_stretch_global, 1.0),
    )
    return Layer(jnp.asarray(is_global), jnp.asarray(frequencies))


class Layer(NamedTuple):
  """What tells a layer from the others.

  Attributes:
    is_global: bool[], whether it sees beyond the window.
    frequencies: float32[H / 2], as in `gemma.rotate`.
  """

  is_global: jax.Array
  frequencies: jax.Array


class Encoder(nnx.Module):
  """Bidirectional stack over image tokens and prompt tokens together.

  Args:
    shape: of the blocks.
    depth: how many.
  """

  def __init__(self, shape: Shape, depth: int, *, rngs: layers.Keys):
    self.blocks = shape.blocks(depth, rngs)
    self.norm = gemma.RMSNorm(shape.width)
    self.shape, self.depth = shape, depth

  def __call__(
    self, x_BSD: jax.Array, mask_BS: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """float[B, S, D], bool[B, S] (True: a real token) -> float[B, S, D]."""
    positions_1S = jnp.arange(x_BSD.shape[1])[None]
    # Half of the window on either side; an even one has its query on the left.
    near_1SS = gemma.window(
      positions_1S,
      positions_1S,
      left=(self.shape.window + 1) // 2,
      right=self.shape.window // 2 + 1,
    )

    def body(block, carry, layer):
      x_BSD, key = carry
      key, project_key, finish_key = layers.split(key, 3)
      q, k, v = block.project(
        x_BSD, positions_1S, layer.frequencies, project_key
      )
      mask_BSS = mask_BS[:, None, :] & (near_1SS | layer.is_global)
      y_BSNH = block.attend(q, k, v, mask_BSS)
      return (block.finish(x_BSD, y_BSNH, finish_key), key), None

    (x_BSD, _), _ = _run(self, body, (x_BSD, key))
    return self.norm(x_BSD)


class Context(NamedTuple):
  """What decoding holds of an example: the encoder's side of every attention.

  Attributes:
    keys, values: float[layers, B, S, K, H].
    mask_BS: bool[B, S], True where the encoder had a real token.
  """

  keys: jax.Array
  values: jax.Array
  mask_BS: jax.Array


class Decoder(nnx.Module):
  """Causal stack whose attention sees the encoder's output as well.

  Rows may be a multiple of the encoded examples: M adjacent rows (beams,
  samples, options) share the keys and values of one, which are never repeated.

  Letters beyond the common legend: R rows, R = M B.

  Args:
    shape: of the blocks.
    depth: how many.
  """

  def __init__(self, shape: Shape, depth: int, *, rngs: layers.Keys):
    self.blocks = shape.blocks(depth, rngs)
    self.norm = gemma.RMSNorm(shape.width)
    self.shape, self.depth = shape, depth

  def __call__(
    self,
    x_RTD: jax.Array,
    encoded_BSD: jax.Array,
    mask_BS: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Runs the stack over whole targets.

    Args:
      x_RTD: float[R, T, D], embedded inputs.
      encoded_BSD, mask_BS: from the encoder; bool, True at a real token.
      key: for dropout; None for none.

    Returns:
      float[R, T, D].
    """
    positions_1T = jnp.arange(x_RTD.shape[1])[None]

    def body(block, carry, layer):
      x_RTD, key = carry
      key, project_key, encoded_key, finish_key = layers.split(key, 4)
      q, k, v = block.project(
        x_RTD, positions_1T, layer.frequencies, project_key
      )
      y_RTNH = gemma.attend_merged(
        q,
        (k, v),
        self._own_mask(positions_1T, positions_1T, layer),
        _encoded_keys_values(block, encoded_BSD, encoded_key),
        mask_BS[:, None, :],
      )
      return (block.finish(x_RTD, y_RTNH, finish_key), key), None

    (x_RTD, _), _ = _run(self, body, (x_RTD, key))
    return self.norm(x_RTD)

  def context(self, encoded_BSD: jax.Array, mask_BS: jax.Array) -> Context:
    """Keys and values of an encoded sequence for every block, once."""

    def body(block, _, __):
      return None, _encoded_keys_values(block, encoded_BSD)

    keys, values = _run(self, body, None)[1]
    return Context(keys, values, mask_BS)

  def init_cache(
    self, rows: int, length: int, dtype: jax.typing.DTypeLike
  ) -> tuple[jax.Array, jax.Array]:
    """Empty keys and values, float[layers, R, length, K, H] each."""
    shape = self.shape
    sizes = (self.depth, rows, length, shape.kv_heads, shape.head_width)
    return jnp.zeros(sizes, dtype), jnp.zeros(sizes, dtype)

  def extend(
    self,
    x_R1D: jax.Array,
    position: jax.Array,
    context: Context,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Runs the stack over one more token of each target.

    Args:
      x_R1D: float[R, 1, D], the token's embedding.
      position: int32[], where it stands.
      context: from `context`.
      cache: from `init_cache` or the last call.

    Returns:
      (float[R, 1, D], the cache with this position written).
    """
    own_positions_1T = jnp.arange(cache[0].shape[2])[None]
    position_11 = jnp.full((1, 1), position, jnp.int32)

    def body(block, x_R1D, inputs):
      layer, shared, own = inputs
      q, *new = block.project(x_R1D, position_11, layer.frequencies)
      keys, values = (
        jax.lax.dynamic_update_slice_in_dim(x, y, position, axis=1)
        for x, y in zip(own, new, strict=True)
      )
      own = keys, values
      y_R1NH = gemma.attend_merged(
        q,
        own,
        self._own_mask(position_11, own_positions_1T, layer),
        shared,
        context.mask_BS[:, None, :],
      )
      return block.finish(x_R1D, y_R1NH), own

    inputs = ((context.keys, context.values), cache)
    x_R1D, cache = _run(self, body, x_R1D, *inputs)
    return self.norm(x_R1D), cache

  def _own_mask(self, queries_1T, keys_1S, layer: Layer) -> jax.Array:
    """bool[1, T, S]: itself and the past, as far as the layer sees."""
    near_1TS = gemma.window(
      queries_1T, keys_1S, left=self.shape.window, right=1
    )
    past_1TS = keys_1S[:, None, :] <= queries_1T[:, :, None]
    return near_1TS | (past_1TS & layer.is_global)


def _encoded_keys_values(
  block: gemma.Block, encoded_BSD: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The encoder's output as the decoder's attention sees it: unturned.

  It has been normed at the encoder's end; the block's own norm is for what
  comes from the block before.
  """
  return block.attention.keys_values(encoded_BSD, None, None, key)


def _run(module: Encoder | Decoder, body, carry, *inputs) -> tuple[Any, Any]:
  shape = module.shape
  layer = shape.per_layer(module.depth)
  return stack.run(
    module.blocks,
    body,
    carry,
    (layer, *inputs) if inputs else layer,
    is_scanned=shape.is_scanned,
    remat=shape.remat,
  )
