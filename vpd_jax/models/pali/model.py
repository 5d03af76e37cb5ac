"""PaLI: image tokens in front of the prompt, encoder, decoder, logits.

The data's path, with P image tokens and a prompt of T tokens:

    image -> ViT -> projection -> [B, P, D] -+
                                             +-> encoder -> decoder -> logits
    prompt -> embedding ---------> [B, T, D] -+

Source: Chen et al., PaLI, arXiv:2209.06794, figure 1; PaLI-3, arXiv:
2310.09199. Departures: no pooling head, no separate multilingual tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers, vit
from vpd_jax.models.pali import encdec

PAD_ID = 0  # Padding of prompts and targets; also the decoder's first input.


class Model(nnx.Module):
  """A PaLI of any size; `sizes.py` has the named ones.

  Args:
    vocab_size: rows of the embedding, and of the output matrix.
    image_size, stem, vit_depth, vit_heads, vit_mlp_width: of the image tower.
    width, heads, head_width, mlp_width: of encoder and decoder.
    encoder_depth, decoder_depth: their numbers of blocks.
    is_attention_scaled: divide scores by sqrt(head_width). T5's weights do
      not, and were trained with steps relative to each weight's size; under
      Adam, whose steps are absolute, their small queries move too fast.
    seed: of the initial weights.
  """

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
    is_attention_scaled: bool = False,
    seed: int = 0,
  ):
    rngs = nnx.Rngs(params=seed)
    self.vit = vit.ViT(
      image_size=image_size,
      stem=stem,
      depth=vit_depth,
      heads=vit_heads,
      mlp_width=vit_mlp_width,
      rngs=rngs,
    )
    self.projection = layers.Linear(
      stem[-1][1], width, (None, "embed"), rngs=rngs, use_bias=True
    )
    self.embedding = layers.Embedding(vocab_size, width, rngs=rngs)
    stack = (heads, head_width, mlp_width)
    options = {"is_scaled": is_attention_scaled, "rngs": rngs}
    self.encoder = encdec.Encoder(width, encoder_depth, *stack, **options)
    self.decoder = encdec.Decoder(width, decoder_depth, *stack, **options)
    self.head = layers.Linear(width, vocab_size, ("embed", "vocab"), rngs=rngs)

  def encode_image(self, image: jax.Array, dtype=jnp.float32) -> jax.Array:
    """uint8[B, height, width, 3] -> image tokens float[B, P, D]."""
    return self.projection(self.vit(image, dtype))

  def encode(
    self, image_BPD: jax.Array, prompt_BT: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes image tokens and a prompt together.

    Args:
      image_BPD: float[B, P, D], from `encode_image`.
      prompt_BT: int32[B, T], padded with PAD_ID at the end.

    Returns:
      (encoded float[B, S, D], mask bool[B, S]) with S = P + T; True marks a
      real token. Padding changes no real token's vector.
    """
    text_BTD = self.embedding(prompt_BT, image_BPD.dtype)
    x_BSD = jnp.concatenate([image_BPD, text_BTD], axis=1)
    is_image = jnp.ones(image_BPD.shape[:2], bool)
    mask_BS = jnp.concatenate([is_image, prompt_BT != PAD_ID], axis=1)
    return self.encoder(x_BSD, mask_BS), mask_BS

  def decode(
    self, encoded_BSD: jax.Array, mask_BS: jax.Array, target_BT: jax.Array
  ) -> jax.Array:
    """Hidden states that predict each target token from those before it.

    Args:
      encoded_BSD, mask_BS: from `encode`.
      target_BT: int32[B, T].

    Returns:
      float[B, T, D]; `logits` turns them into scores.
    """
    inputs_BT = jnp.pad(
      target_BT[:, :-1], ((0, 0), (1, 0)), constant_values=PAD_ID
    )
    cross = self.decoder.cross_keys_values(encoded_BSD)
    x_BTD = self.embedding(inputs_BT, encoded_BSD.dtype)
    return self.decoder(x_BTD, cross, mask_BS)[0]

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> list:
    """Empty keys and values for `length` positions, one pair per block."""
    shape = (
      batch,
      length,
      self.decoder.blocks[0].attention.heads,
      self.decoder.blocks[0].attention.head_width,
    )
    return [
      (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
      for _ in self.decoder.blocks
    ]

  def decode_next(
    self,
    token_B: jax.Array,
    position: jax.Array,
    cross: list,
    mask_BS: jax.Array,
    cache: list,
  ) -> tuple[jax.Array, list]:
    """Logits after one more token, float32[B, V], and the grown cache.

    Args:
      token_B: int32[B], the token at `position` (PAD_ID at position 0).
      position: int32[].
      cross: `self.decoder.cross_keys_values(encoded)`, held once per example.
      mask_BS: from `encode`.
      cache: from `init_cache` or the last call.
    """
    x_B1D = self.embedding(token_B[:, None], cross[0][0].dtype)
    x_B1D, new_cache = self.decoder(x_B1D, cross, mask_BS, cache, position)
    assert new_cache is not None
    return self.logits(x_B1D)[:, 0], new_cache

  def logits(self, hidden_BTD: jax.Array) -> jax.Array:
    """float[B, T, D] -> float32[B, T, V]."""
    return self.head(hidden_BTD).astype(jnp.float32)

  def __call__(
    self, image: jax.Array, prompt_BT: jax.Array, target_BT: jax.Array
  ) -> jax.Array:
    """Logits of a target, teacher-forced: float32[B, T, V]."""
    encoded = self.encode(self.encode_image(image), prompt_BT)
    return self.logits(self.decode(*encoded, target_BT))
