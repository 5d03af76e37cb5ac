"""PaliGemma 1 and 2: image tokens and a prompt as the prefix of a Gemma.

The data's path, with P image tokens, a prompt of T and a target of U tokens:

    image -> ViT -> projection -> [B, P, D] -+
                                             +-> prefix [B, P + T, D] -+
    prompt -> embedding ---------> [B, T, D] -+                         |
                                                                        v
    target -> embedding ---------------------> suffix [R, U, D] -> decoder
                                                                        |
                                                        logits <--------+

Source: Beyer et al., arXiv:2407.07726; Steiner et al., PaliGemma 2,
arXiv:2412.03555; google-research/big_vision, models/proj/paligemma.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import gemma, layers, output, vit
from vpd_jax.models.paligemma import decoder

PAD_ID = 0
EOS_ID = 1


class Model(nnx.Module):
  """A PaliGemma of any size; `sizes.py` has the named ones.

  A prompt is what stands between image and answer, whole: PaliGemma's weights
  expect `<bos>` (token 2), the prompt's words and a newline. Targets end with
  EOS_ID. Both come from the tokenizer; nothing is added here.

  Attributes:
    pad_id, eos_id: of the tokens.
    start_id: what `decode_next` is given at position 0, and does not look at:
      the first target token is predicted by the last of the prefix.

  Args:
    vocab_size: how many tokens the tokenizer has.
    vocab_multiple: the embedding gets as many rows as the next multiple of
      this. Hugging Face's have 257216 for 257153 tokens: 64.
    image_size, stem, vit_depth, vit_heads, vit_mlp_width: of the image tower.
    width, heads, kv_heads, head_width, mlp_width, depth: of the decoder.
    has_post_norms: what attention and MLP give is normed too (Gemma 2).
    query_width: scores are divided by its square root; None: head_width. The
      28B has width / heads.
    attention_softcap, logits_softcap: caps of scores and of logits. Gemma 2
      was trained with 50 and 30; big_vision's transfers leave out the second.
    window: of every other layer, for what comes after the prefix; None: there
      is none. 4096 in transformers' Gemma 2; big_vision has none.
    is_scanned: compile one block of each stack and loop over it; small models
      run faster unrolled. Weights are stored alike.
    remat, vit_remat: what the backward pass recomputes, see `stack.REMAT`.
    seed: of the initial weights.
  """

  pad_id, start_id, eos_id = PAD_ID, PAD_ID, EOS_ID

  def __init__(
    self,
    *,
    vocab_size: int,
    image_size: int,
    stem: Sequence[Sequence[int]],
    vit_depth: int,
    vit_heads: int,
    vit_mlp_width: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    depth: int,
    vocab_multiple: int = 1,
    has_post_norms: bool = False,
    query_width: int | None = None,
    attention_softcap: float | None = None,
    logits_softcap: float | None = None,
    window: int | None = None,
    is_scanned: bool = True,
    remat: str = "none",
    vit_remat: str = "none",
    seed: int = 0,
  ):
    rngs = layers.Keys(seed)
    self.is_scanned = is_scanned
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
    self.projection = layers.Linear(
      stem[-1][1], width, (None, "embed"), rngs=rngs, use_bias=True
    )
    rows = -(-vocab_size // vocab_multiple) * vocab_multiple
    self.embedding = layers.Embedding(rows, width, rngs=rngs)
    # Vectors are multiplied by sqrt(width) on their way in, and are the
    # output matrix too: so both inputs and logits start at unit scale.
    self.embedding.table[...] = self.embedding.table[...] * width**-0.5
    self.decoder = decoder.Decoder(
      width,
      depth,
      heads,
      kv_heads,
      head_width,
      mlp_width,
      query_scale=(query_width or head_width) ** -0.5,
      has_post_norms=has_post_norms,
      attention_softcap=attention_softcap,
      window=window,
      is_scanned=is_scanned,
      remat=remat,
      rngs=rngs,
    )
    self.logits_softcap = logits_softcap

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
    return self.projection(self.vit(image, dtype, vit_key), projection_key)

  def encode(
    self,
    image_BPD: jax.Array | None,
    prompt_BT: jax.Array,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Embeds a prompt behind image tokens; all else is the decoder's.

    Args:
      image_BPD: float[B, P, D], from `encode_image`; None for text alone,
        when each prompt has a token.
      prompt_BT: int32[B, T], padded with PAD_ID.
      key: takes no part; an embedding has no dropout.

    Returns:
      (prefix float[B, S, D], mask bool[B, S]) with S = P + T; True marks a
      real token.
    """
    del key
    mask_BS = prompt_BT != PAD_ID
    if image_BPD is None:
      return gemma.embed(self.embedding, prompt_BT), mask_BS
    text_BTD = gemma.embed(self.embedding, prompt_BT, image_BPD.dtype)
    is_image = jnp.ones(image_BPD.shape[:2], bool)
    return (
      jnp.concatenate([image_BPD, text_BTD], axis=1),
      jnp.concatenate([is_image, mask_BS], axis=1),
    )

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
        example, whose prefix is computed once.
      key: for dropout; None for none.

    Returns:
      float[R, T, D]; `logits` turns them into scores. The first is that of
      the last real token of the prefix.
    """
    suffix_RTD = gemma.embed(self.embedding, target_RT, encoded_BSD.dtype)
    return self.decoder(encoded_BSD, mask_BS, suffix_RTD, key)

  def context(
    self, encoded_BSD: jax.Array, mask_BS: jax.Array
  ) -> decoder.Context:
    """What decoding needs of the prefixes, held once for each example."""
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
    context: decoder.Context,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Logits of the target token at a position, and the grown cache.

    Args:
      token_R: int32[R], the target token before it; not looked at for
        position 0, whose logits follow from the prefix. R a multiple of the
        context's examples.
      position: int32[].
      context: from `context`.
      cache: from `init_cache` or the last call.

    Returns:
      (float32[R, V], cache).
    """

    def first(cache):
      last_BD = context.last_BD
      rows = len(token_R) // len(last_BD)
      return jnp.repeat(last_BD, rows, axis=0)[:, None], cache

    def later(cache):
      dtype = context.keys.dtype
      x_R1D = gemma.embed(self.embedding, token_R[:, None], dtype)
      return self.decoder.extend(x_R1D, position - 1, context, cache)

    hidden_R1D, cache = jax.lax.cond(position == 0, first, later, cache)
    return self.logits(hidden_R1D)[:, 0], cache

  def output(self, hidden_BTD: jax.Array) -> output.Output:
    """What logits are computed from, for a loss that goes by parts."""
    table, softcap = self.embedding.table[...], self.logits_softcap
    return output.Output(hidden_BTD, table, is_rows=True, softcap=softcap)

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """float[B, T, D] -> float32[B, T, V]."""
    return self.output(hidden_BTD).logits()

  def __call__(
    self, image: jax.Array, prompt_BT: jax.Array, target_BT: jax.Array
  ) -> jax.Array:
    """Logits of a target, teacher-forced: float32[B, T, V]."""
    encoded = self.encode(self.encode_image(image), prompt_BT)
    return self.logits(self.decode(*encoded, target_BT))
