"""PaLI: image tokens in front of the prompt, encoder, decoder, logits.

The data's path, with P image tokens and a prompt of T tokens:

    image -> ViT -> projection -> [B, P, D] -+
                                             +-> encoder -> decoder -> logits
    prompt -> embedding ---------> [B, T, D] -+

Source: Chen et al., PaLI, arXiv:2209.06794, figure 1; PaLI-3, arXiv:
2310.09199. Departures: no pooling head, no separate multilingual tokens.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers, naflex, output, vit
from vpd_jax.models.pali import encdec

PAD_ID = 0  # Padding of prompts and targets; also the decoder's first input.
EOS_ID = 1


class Model(nnx.Module):
  """A PaLI of any size; `sizes.py` has the named ones.

  Attributes:
    pad_id, eos_id: of the tokens; start_id: the decoder's first input.

  Args:
    vocab_size: how many tokens the tokenizer has.
    vocab_multiple: the embedding and the output matrix get as many rows as
      the next multiple of this; T5's have 32128 for 32100 tokens, mT5's
      250112 for 250100: 128.
    image_size, stem, vit_depth, vit_heads, vit_mlp_width: of the image tower.
    width, heads, head_width, mlp_width: of encoder and decoder.
    encoder_depth, decoder_depth: their numbers of blocks.
    mlp: "gated_gelu" (T5 v1.1, Flan-T5, mT5), "gated_silu" (UL2) or "relu"
      (T5 1.0).
    is_head_tied: the embedding is the output matrix too, and hidden states
      are scaled by width**-0.5 before it (T5 1.0); else it has its own.
    is_attention_scaled: divide scores by sqrt(head_width). T5's weights do
      not, and were trained with steps relative to each weight's size; under
      Adam, whose steps are absolute, their small queries move too fast.
    has_parallel_vit: the image tower has ViT-22B's blocks.
    has_naflex_vit: it takes pictures of any shape, `naflex.Patches`;
      image_size is the side of the square that its positions were made for.
    dropout: share of what each branch of an encoder's or decoder's block adds
      that is dropped in training. T5 drops as much of attention weights, of
      MLPs' inner values and of embeddings too; here they stay whole.
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
    head_width: int,
    mlp_width: int,
    encoder_depth: int,
    decoder_depth: int,
    vocab_multiple: int = 1,
    mlp: str = "gated_gelu",
    is_head_tied: bool = False,
    is_attention_scaled: bool = False,
    has_parallel_vit: bool = False,
    has_naflex_vit: bool = False,
    dropout: float = 0.0,
    is_scanned: bool = True,
    remat: str = "none",
    vit_remat: str = "none",
    seed: int = 0,
  ):
    rngs = layers.Keys(seed)
    self.is_scanned = is_scanned
    tower: dict[str, Any] = dict(
      depth=vit_depth,
      heads=vit_heads,
      mlp_width=vit_mlp_width,
      is_scanned=is_scanned,
      remat=vit_remat,
      rngs=rngs,
    )
    self.vit: Any = (
      _naflex(image_size, stem, has_parallel_vit, tower)
      if has_naflex_vit
      else vit.ViT(
        image_size=image_size,
        stem=stem,
        has_parallel_blocks=has_parallel_vit,
        **tower,
      )
    )
    self.projection = layers.Linear(
      stem[-1][1], width, (None, "embed"), rngs=rngs, use_bias=True
    )
    rows = -(-vocab_size // vocab_multiple) * vocab_multiple
    self.embedding = layers.Embedding(rows, width, rngs=rngs)
    stack = (heads, head_width, mlp_width)
    options = {"mlp": mlp, "is_scaled": is_attention_scaled, "rngs": rngs}
    options |= {"is_scanned": is_scanned, "remat": remat, "dropout": dropout}
    self.encoder = encdec.Encoder(width, encoder_depth, *stack, **options)
    self.decoder = encdec.Decoder(width, decoder_depth, *stack, **options)
    self.head = (
      None
      if is_head_tied
      else layers.Linear(width, rows, ("embed", "vocab"), rngs=rngs)
    )

  def encode_image(
    self,
    image: jax.Array | naflex.Patches,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array | naflex.Tokens:
    """uint8[B, height, width, 3] -> image tokens float[B, P, D].

    NaFlex takes patches and gives tokens, each with the mask of real ones.
    `dtype` is that of all activations from here on; weights stay as they are
    stored. `key` is for dropout, None for none.
    """
    vit_key, projection_key = layers.split(key, 2)
    x_BPD = self.projection(self.vit(image, dtype, vit_key), projection_key)
    if isinstance(image, naflex.Patches):
      return naflex.Tokens(x_BPD, image.mask_BP)
    return x_BPD

  def encode(
    self,
    image_BPD: jax.Array | naflex.Tokens | None,
    prompt_BT: jax.Array,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes image tokens and a prompt together.

    Args:
      image_BPD: float[B, P, D], from `encode_image`; None for text alone.
      prompt_BT: int32[B, T], padded with PAD_ID at the end.
      key: for dropout; None for none.

    Returns:
      (encoded float[B, S, D], mask bool[B, S]) with S = P + T; True marks a
      real token. Padding changes no real token's vector.
    """
    mask_BS = prompt_BT != PAD_ID
    if image_BPD is None:
      return self.encoder(self.embedding(prompt_BT), mask_BS, key), mask_BS
    if isinstance(image_BPD, naflex.Tokens):
      x_BPD, is_image = image_BPD
    else:
      x_BPD, is_image = image_BPD, jnp.ones(image_BPD.shape[:2], bool)
    text_BTD = self.embedding(prompt_BT, x_BPD.dtype)
    x_BSD = jnp.concatenate([x_BPD, text_BTD], axis=1)
    mask_BS = jnp.concatenate([is_image, mask_BS], axis=1)
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
      target_RT[:, :-1], ((0, 0), (1, 0)), constant_values=PAD_ID
    )
    x_RTD = self.embedding(inputs_RT, encoded_BSD.dtype)
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
      token_R: int32[R], the token at `position` (PAD_ID at position 0); R a
        multiple of the context's examples.
      position: int32[].
      context: from `context`.
      cache: from `init_cache` or the last call.
    """
    x_R1D = self.embedding(token_R[:, None], context.keys.dtype)
    x_R1D, cache = self.decoder.extend(x_R1D, position, context, cache)
    return self.logits(x_R1D)[:, 0], cache

  def output(self, hidden_BTD: jax.Array) -> output.Output:
    """What logits are computed from, for a loss that goes by parts."""
    if self.head is not None:
      return output.of_head(hidden_BTD, self.head)
    scale = hidden_BTD.shape[-1] ** -0.5
    table = self.embedding.table[...]
    return output.Output(hidden_BTD * scale, table, is_rows=True)

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """float[B, T, D] -> float32[B, T, V]."""
    return self.output(hidden_BTD).logits()

  def __call__(
    self, image: jax.Array, prompt_BT: jax.Array, target_BT: jax.Array
  ) -> jax.Array:
    """Logits of a target, teacher-forced: float32[B, T, V]."""
    encoded = self.encode(self.encode_image(image), prompt_BT)
    return self.logits(self.decode(*encoded, target_BT))


def _naflex(image_size, stem, has_parallel_vit, tower) -> naflex.NaFlexViT:
  if len(stem) != 1 or has_parallel_vit or image_size % stem[0][0]:
    raise ValueError(
      f"has_naflex_vit=True with {stem=}, {image_size=}, {has_parallel_vit=}:"
      " expected a stem of one step, which divides the image, and plain blocks."
    )
  ((patch_size, width),) = stem
  grid = image_size // patch_size
  return naflex.NaFlexViT(
    patch_size=patch_size, grid=grid, width=width, **tower
  )
