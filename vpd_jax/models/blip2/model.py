"""BLIP-2 that writes: EVA, Q-Former, a Flan-T5 that is told what they saw.

The data's path, with Q learned queries and a prompt of T tokens:

    image -> EVA -> Q-Former -> projection -> [B, Q, D] -+
                                                         +-> T5 -> logits
    prompt -> embedding --------------------> [B, T, D] -+

From the T5 on all is as in PaLI, and is PaLI's code and names.

Source: Li et al., BLIP-2, arXiv:2301.12597, figure 3 (below).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vpd_jax.models import layers
from vpd_jax.models.blip2 import qformer, vision
from vpd_jax.models.pali import encdec
from vpd_jax.models.pali import model as pali


class Model(pali.Model):
  """A BLIP-2 with a T5; `sizes.py` has the named ones.

  Prompts hold no placeholders for image tokens: these are put in front.

  Attributes:
    pad_id, eos_id: of the tokens; start_id: the decoder's first input.

  Args:
    vocab_size, vocab_multiple: of T5's tokens, as in PaLI.
    image_size, patch_size, vit_width, vit_depth, vit_heads, vit_mlp_width,
      image_mean, image_std: of the image tower, see `vision.EVA`.
    queries: how many tokens of an image T5 gets.
    qformer_width, qformer_depth, qformer_heads, qformer_mlp_width: see
      `qformer.QFormer`.
    width, heads, head_width, mlp_width, encoder_depth, decoder_depth, mlp,
      is_head_tied: of T5, as in PaLI.
    is_gelu_exact: MLPs have the exact GELU where Flan-T5 was trained with its
      tanh form. LAVIS set it so when BLIP-2 was trained (blip2_t5.py,
      dense_act_fn).
    image_token_id: what stands for an image token in transformers' prompts;
      only goes into what is written for it. None: the first row of the
      embedding that no token has.
    dropout: in T5's blocks, as in PaLI.
    is_scanned: compile one block of each stack and loop over it.
    remat, vit_remat: what the backward pass recomputes, see `stack.REMAT`.
    seed: of the initial weights.
  """

  def __init__(
    self,
    *,
    vocab_size: int,
    image_size: int,
    patch_size: int,
    vit_width: int,
    vit_depth: int,
    vit_heads: int,
    vit_mlp_width: int,
    queries: int,
    qformer_width: int,
    qformer_depth: int,
    qformer_heads: int,
    qformer_mlp_width: int,
    width: int,
    heads: int,
    head_width: int,
    mlp_width: int,
    encoder_depth: int,
    decoder_depth: int,
    vocab_multiple: int = 1,
    image_mean: Sequence[float] = vision.CLIP_MEAN,
    image_std: Sequence[float] = vision.CLIP_STD,
    mlp: str = "gated_gelu",
    is_head_tied: bool = False,
    is_gelu_exact: bool = False,
    image_token_id: int | None = None,
    dropout: float = 0.0,
    is_scanned: bool = True,
    remat: str = "none",
    vit_remat: str = "none",
    seed: int = 0,
  ):
    rngs = layers.Keys(seed)
    self.is_scanned = is_scanned
    self.image_token_id = image_token_id
    self.vit = vision.EVA(
      image_size=image_size,
      patch_size=patch_size,
      width=vit_width,
      depth=vit_depth,
      heads=vit_heads,
      mlp_width=vit_mlp_width,
      image_mean=image_mean,
      image_std=image_std,
      is_scanned=is_scanned,
      remat=vit_remat,
      rngs=rngs,
    )
    self.qformer = qformer.QFormer(
      queries=queries,
      width=qformer_width,
      depth=qformer_depth,
      heads=qformer_heads,
      mlp_width=qformer_mlp_width,
      image_width=vit_width,
      has_text=False,
      is_scanned=is_scanned,
      remat=remat,
      rngs=rngs,
    )
    self.projection = layers.Linear(
      qformer_width, width, (None, "embed"), rngs=rngs, use_bias=True
    )
    rows = -(-vocab_size // vocab_multiple) * vocab_multiple
    self.embedding = layers.Embedding(rows, width, rngs=rngs)
    shape = (heads, head_width, mlp_width)
    options = {"mlp": mlp, "is_scaled": False, "rngs": rngs}
    options |= {"is_scanned": is_scanned, "remat": remat, "dropout": dropout}
    self.encoder = encdec.Encoder(width, encoder_depth, *shape, **options)
    self.decoder = encdec.Decoder(width, decoder_depth, *shape, **options)
    if is_gelu_exact:
      if mlp != "gated_gelu":
        raise ValueError(f"is_gelu_exact=True, but mlp={mlp!r} has no GELU.")
      for side in (self.encoder, self.decoder):
        side.blocks.mlp.activation = "gelu_erf"
    self.head = (
      None
      if is_head_tied
      else layers.Linear(width, rows, ("embed", "vocab"), rngs=rngs)
    )

  def encode_image(
    self,
    image: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """uint8[B, height, width, 3] -> image tokens float[B, Q, D].

    `dtype` is that of all activations from here on; weights stay as they are
    stored. `key` is for dropout, None for none.
    """
    vit_key, qformer_key, projection_key = layers.split(key, 3)
    image_BPD = self.vit(image, dtype, vit_key)
    queries = self.qformer.see(image_BPD, qformer_key)
    return self.projection(queries.hidden_BQD, projection_key)
