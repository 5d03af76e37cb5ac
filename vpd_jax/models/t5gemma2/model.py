"""T5Gemma 2: image tokens before the prompt, encoder, decoder, logits.

    image -> ViT -> average of squares -> norm -> projection --+
    start and end of the image, prompt -> embedding -----------+-> encoder
    target -> embedding -> decoder, which sees the encoded -> logits

One embedding serves encoder, decoder and logits.

Source: Zhang et al., T5Gemma 2, arXiv:2512.14856; the image part is that of
Gemma 3, arXiv:2503.19786.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import gemma, layers, output, vit
from vpd_jax.models.t5gemma2 import encdec

PAD_ID = 0
EOS_ID = 1
BOS_ID = 2  # Also the decoder's first input.


class Model(nnx.Module):
  """A T5Gemma 2 of any size; `sizes.py` has the named ones.

  Attributes:
    pad_id, eos_id: of the tokens; start_id: the decoder's first input.

  Args:
    vocab_size: how many tokens the tokenizer has.
    vocab_multiple: the embedding gets as many rows as the next multiple.
    image_size, stem, vit_depth, vit_heads, vit_mlp_width: of the image tower.
    image_tokens: how many an image has after averaging; a square.
    width, heads, kv_heads, head_width, mlp_width: of encoder and decoder.
    query_width: scores are divided by its square root.
    encoder_depth, decoder_depth: their numbers of blocks.
    window: how many tokens a local layer sees; the encoder's half of them on
      either side, the decoder's all before.
    global_every: of so many layers the last sees everything; 6: five local
      ones, then a global one.
    rope_base_local, rope_base_global: of the rotary embedding.
    rope_stretch_global: positions are divided by it in global layers.
    logit_softcap: logits become softcap * tanh(logits / softcap); None: not.
    image_start, image_end: tokens before and after those of the image. Where
      there is no image there are none of them: a prompt alone begins with the
      bos that stands here in `image_start`. transformers' processor has two
      newlines (one token) beside them as well, before and after all.
    end_of_image_id: the token whose vector is `end_of_image`, which is not
      scaled as the embedding's are.
    image_token_id: what transformers puts where image tokens will be. Nothing
      is computed with it: it is kept for config.json.
    is_scanned: compile one block of each stack and loop over it; small models
      run faster unrolled. Weights are stored alike.
    remat, vit_remat: what the backward pass recomputes, see `stack.REMAT`.
    seed: of the initial weights.

  Raises:
    ValueError: if the patches cannot be averaged into `image_tokens` squares,
      or a token is not in the vocabulary.
  """

  pad_id, start_id, eos_id = PAD_ID, BOS_ID, EOS_ID

  def __init__(
    self,
    *,
    vocab_size: int,
    image_size: int,
    stem: Sequence[Sequence[int]],
    vit_depth: int,
    vit_heads: int,
    vit_mlp_width: int,
    image_tokens: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    encoder_depth: int,
    decoder_depth: int,
    window: int,
    query_width: int = 256,
    global_every: int = 6,
    rope_base_local: float = 1e4,
    rope_base_global: float = 1e6,
    rope_stretch_global: float = 1.0,
    logit_softcap: float | None = None,
    vocab_multiple: int = 1,
    image_start: Sequence[int] = (BOS_ID, 255_999),
    image_end: Sequence[int] = (256_000,),
    end_of_image_id: int = 256_000,
    image_token_id: int = 256_001,
    is_scanned: bool = True,
    remat: str = "none",
    vit_remat: str = "none",
    seed: int = 0,
  ):
    rngs = layers.Keys(seed)
    self.is_scanned = is_scanned
    rows = -(-vocab_size // vocab_multiple) * vocab_multiple
    for name, ids in {
      "image_start": image_start,
      "image_end": image_end,
      "end_of_image_id": (end_of_image_id,),
    }.items():
      if not all(0 <= token < rows for token in ids):
        raise ValueError(
          f"{name}={ids} is not within the vocabulary of {rows} rows."
        )
    self.vit = vit.ViT(
      image_size=image_size,
      stem=stem,
      depth=vit_depth,
      heads=vit_heads,
      mlp_width=vit_mlp_width,
      is_scanned=is_scanned,
      remat=vit_remat,
      rngs=rngs,
    )
    self.pool_side = _pool_side(self.vit.grid, image_tokens)
    self.image_norm = gemma.RMSNorm(stem[-1][1])
    self.projection = layers.Linear(
      stem[-1][1], width, (None, "embed"), rngs=rngs
    )
    # Unit scale after the factor sqrt(width), and logits of unit scale too.
    self.embedding = layers.Embedding(rows, width, rngs=rngs)
    self.embedding.table[...] *= width**-0.5
    self.end_of_image = layers.param(rngs.params(), (width,), ("embed",), 1.0)
    shape = encdec.Shape(
      width=width,
      heads=heads,
      kv_heads=kv_heads,
      head_width=head_width,
      mlp_width=mlp_width,
      query_width=query_width,
      window=window,
      global_every=global_every,
      rope_base_local=rope_base_local,
      rope_base_global=rope_base_global,
      rope_stretch_global=rope_stretch_global,
      is_scanned=is_scanned,
      remat=remat,
    )
    self.encoder = encdec.Encoder(shape, encoder_depth, rngs=rngs)
    self.decoder = encdec.Decoder(shape, decoder_depth, rngs=rngs)
    self.image_start, self.image_end = tuple(image_start), tuple(image_end)
    self.end_of_image_id = end_of_image_id
    self.image_token_id = image_token_id
    self.logit_softcap = logit_softcap

  def encode_image(
    self,
    image: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """uint8[B, height, width, 3] -> image tokens float[B, P, D].

    `dtype` is that of all activations from here on; weights stay as they are
    stored. `key` is for dropout, None for none.
    """
    vit_key, projection_key = layers.split(key, 2)
    x = self.vit(image, dtype, vit_key)
    x = _average(x, self.vit.grid, self.pool_side)
    return self.projection(self.image_norm(x), projection_key)

  def encode(
    self,
    image_BPD: jax.Array | None,
    prompt_BT: jax.Array,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes image tokens and a prompt together.

    The sequence is `image_start`, the image, `image_end`, the prompt; the
    prompt alone where there is no image.

    Args:
      image_BPD: float[B, P, D], from `encode_image`; None for text alone.
      prompt_BT: int32[B, T], padded with PAD_ID at the end.
      key: for dropout; None for none.

    Returns:
      (encoded float[B, S, D], mask bool[B, S]); True marks a real token.
      Padding changes no real token's vector.
    """
    mask_BS = prompt_BT != PAD_ID
    if image_BPD is None:
      return self.encoder(self._embed(prompt_BT), mask_BS, key), mask_BS
    batch, dtype = image_BPD.shape[0], image_BPD.dtype
    start, end = (
      jnp.tile(jnp.asarray(ids, jnp.int32)[None], (batch, 1))
      for ids in (self.image_start, self.image_end)
    )
    after_BT = jnp.concatenate([end, prompt_BT], axis=1)
    x_BSD = jnp.concatenate(
      [self._embed(start, dtype), image_BPD, self._embed(after_BT, dtype)],
      axis=1,
    )
    before = x_BSD.shape[1] - prompt_BT.shape[1]
    mask_BS = jnp.pad(mask_BS, ((0, 0), (before, 0)), constant_values=True)
    return self.encoder(x_BSD, mask_BS, key), mask_BS

  def decode(
    self,
    encoded_BSD: jax.Array,
    mask_BS: jax.Array,
    target_RT: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Hidden states that predict each target token from those before it.

    Args:
      encoded_BSD, mask_BS: from `encode`.
      target_RT: int32[R, T]; R a multiple of B, adjacent rows share an
        example.
      key: for dropout; None for none.

    Returns:
      float[R, T, D]; `logits` turns them into scores.
    """
    inputs_RT = jnp.pad(
      target_RT[:, :-1], ((0, 0), (1, 0)), constant_values=BOS_ID
    )
    x_RTD = self._embed(inputs_RT, encoded_BSD.dtype)
    return self.decoder(x_RTD, encoded_BSD, mask_BS, key)

  def context(
    self, encoded_BSD: jax.Array, mask_BS: jax.Array
  ) -> encdec.Context:
    """What decoding needs of the encoded examples, held once for each."""
    return self.decoder.context(encoded_BSD, mask_BS)

  def init_cache(
    self,
    rows: int,
    length: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
  ) -> tuple[jax.Array, jax.Array]:
    """An empty cache for `length` positions, float[layers, R, ...] each."""
    return self.decoder.init_cache(rows, length, dtype)

  def decode_next(
    self,
    token_R: jax.Array,
    position: jax.Array,
    context: encdec.Context,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Logits after one more token, float32[R, V], and the grown cache.

    Args:
      token_R: int32[R], the decoder's input at `position`: BOS_ID at 0, then
        the target's tokens; R a multiple of the context's examples.
      position: int32[].
      context: from `context`.
      cache: from `init_cache` or the last call.
    """
    x_R1D = self._embed(token_R[:, None], context.keys.dtype)
    x_R1D, cache = self.decoder.extend(x_R1D, position, context, cache)
    return self.logits(x_R1D)[:, 0], cache

  def output(self, hidden: jax.Array) -> output.Output:
    """What logits are computed from, for a loss that goes by parts."""
    table, softcap = self.embedding.table[...], self.logit_softcap
    return output.Output(hidden, table, is_rows=True, softcap=softcap)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """float[..., D] -> float32[..., V]."""
    return self.output(hidden).logits()

  def __call__(
    self, image: jax.Array, prompt_BT: jax.Array, target_BT: jax.Array
  ) -> jax.Array:
    """Logits of a target, teacher-forced: float32[B, T, V]."""
    encoded = self.encode(self.encode_image(image), prompt_BT)
    return self.logits(self.decode(*encoded, target_BT))

  def _embed(self, tokens_BT: jax.Array, dtype=jnp.float32) -> jax.Array:
    """int32[B, T] -> float[B, T, D], with the end of an image in its place."""
    x_BTD = gemma.embed(self.embedding, tokens_BT, dtype)
    is_end_BT1 = (tokens_BT == self.end_of_image_id)[..., None]
    end_11D = self.end_of_image[...].astype(dtype)[None, None]
    return jnp.where(is_end_BT1, end_11D, x_BTD)


def _pool_side(grid: int, image_tokens: int) -> int:
  """Side in patches of the squares that become one image token each."""
  tokens_side = round(image_tokens**0.5)
  if tokens_side**2 != image_tokens or grid % tokens_side:
    sides = [n for n in range(1, grid + 1) if grid % n == 0]
    raise ValueError(
      f"image_tokens={image_tokens} cannot be averages of {grid} x {grid}"
      f" patches; {[n * n for n in sides]} can."
    )
  return grid // tokens_side


def _average(x_BPD: jax.Array, grid: int, side: int) -> jax.Array:
  """float[B, grid * grid, D] -> [B, (grid / side)**2, D]: means of squares."""
  batch, _, width = x_BPD.shape
  x = x_BPD.reshape(batch, grid // side, side, grid // side, side, width)
  return x.mean((2, 4)).reshape(batch, -1, width)
