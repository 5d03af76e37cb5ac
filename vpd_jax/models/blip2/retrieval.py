"""BLIP-2 before a language model: EVA, and a Q-Former with up to three heads.

    image -> EVA -> queries see ------> contrast <------ [CLS] <- text is read
                 |        +-> keys ---> text is written, token by token
                 +-> queries and text together -> match, or not

    model = retrieval.Retrieval(vocab_size=30523, **sizes.get("..."))
    image_BPD = model.encode_image(image)
    queries = model.see(image_BPD)                     # one pass for two heads
    cosine_BR = model.similarity(
      model.image_features(queries), model.text_features(text_RT))
    logits_R2 = model.match_logits(image_BPD, text_RT)
    logits_RTV = model.lm_logits(queries, target_RT)

Letters beyond the common legend: R texts, R = M B where they go with images
one by one, M adjacent texts to each; E width of features.

Source: Li et al., BLIP-2, arXiv:2301.12597, section 3.1 and figure 2; LAVIS,
lavis/models/blip2_models/blip2_qformer.py.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import layers
from vpd_jax.models.blip2 import qformer, vision

PAD_ID = 0  # BERT's.
TEMPERATURE = 0.07


H = TypeVar("H", bound=nnx.Module)


class Retrieval(nnx.Module):
  """BLIP-2's first stage; `sizes.py` has the named ones.

  Texts are BERT's tokens, padded with PAD_ID at the end; those to be read or
  matched begin with [CLS] and end with [SEP].

  Attributes:
    pad_id: of texts; start_id: what a text to be written begins with.
    temperature: float32[], divides similarities in a contrastive loss.

  Args:
    vocab_size: of the text; BERT's 30522 and one that begins what is written.
    image_size, patch_size, vit_width, vit_depth, vit_heads, vit_mlp_width,
      image_mean, image_std: of the image tower, see `vision.EVA`.
    queries, qformer_width, qformer_depth, qformer_heads, qformer_mlp_width:
      see `qformer.QFormer`.
    positions: how long a text may be.
    feature_width: of what is contrasted.
    has_contrast_head, has_match_head, has_lm_head: which heads there are.
    image_token_id: what stands for an image token in transformers' texts, if
      they hold such; only goes into what is written for it.
    is_scanned: compile one block of each stack and loop over it.
    remat, vit_remat: what the backward pass recomputes, see `stack.REMAT`.
    seed: of the initial weights.
  """

  pad_id = PAD_ID

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
    positions: int = 512,
    feature_width: int = 256,
    image_mean: Sequence[float] = vision.CLIP_MEAN,
    image_std: Sequence[float] = vision.CLIP_STD,
    has_contrast_head: bool = True,
    has_match_head: bool = True,
    has_lm_head: bool = False,
    image_token_id: int | None = None,
    is_scanned: bool = True,
    remat: str = "none",
    vit_remat: str = "none",
    seed: int = 0,
  ):
    rngs = layers.Keys(seed)
    self.start_id = vocab_size - 1
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
      has_text=True,
      is_scanned=is_scanned,
      remat=remat,
      rngs=rngs,
    )
    self.embedding = qformer.TextEmbedding(
      vocab_size, qformer_width, positions, rngs=rngs
    )

    def head(width: int) -> layers.Linear:
      return layers.Linear(
        qformer_width, width, ("embed", None), rngs=rngs, use_bias=True
      )

    self.image_projection = nnx.data(None)
    self.text_projection = nnx.data(None)
    self.temperature = nnx.data(None)
    if has_contrast_head:
      self.image_projection = head(feature_width)
      self.text_projection = head(feature_width)
      self.temperature = layers.constant((), (), TEMPERATURE)
    self.match_head = nnx.data(head(2) if has_match_head else None)
    self.lm_head = nnx.data(
      LMHead(vocab_size, qformer_width, rngs=rngs) if has_lm_head else None
    )

  def encode_image(
    self,
    image: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """uint8[B, height, width, 3] -> the tower's tokens float[B, 1 + P, D].

    `dtype` is that of all activations that follow from them. `key` is for
    dropout, None for none.
    """
    return self.vit(image, dtype, key)

  def see(
    self, image_BPD: jax.Array, key: jax.Array | None = None
  ) -> qformer.Queries:
    """What queries make of an image, without any text."""
    return self.qformer.see(image_BPD, key)

  def image_features(self, queries: qformer.Queries) -> jax.Array:
    """float32[B, Q, E] of length 1, from `see`."""
    head = _head(self.image_projection, "contrast")
    return _unit(head(queries.hidden_BQD))

  def text_features(
    self,
    text_RT: jax.Array,
    dtype: jax.typing.DTypeLike = jnp.float32,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """int32[R, T] -> float32[R, E] of length 1, from the first token."""
    head = _head(self.text_projection, "contrast")
    text_RTD = self.embedding(text_RT, dtype)
    x_RTD = self.qformer.read(text_RTD, text_RT != PAD_ID, key)
    return _unit(head(x_RTD[:, 0]))

  def match_logits(
    self,
    image_BPD: jax.Array,
    text_RT: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Do image and text belong together?

    Args:
      image_BPD: float[B, 1 + P, D], from `encode_image`.
      text_RT: int32[R, T]; R a multiple of B, adjacent texts share an image.
      key: for dropout; None for none.

    Returns:
      float32[R, 2], of no and of yes: the mean over queries.
    """
    head = _head(self.match_head, "match")
    text_RTD = self.embedding(text_RT, image_BPD.dtype)
    x_RQD = self.qformer.match(image_BPD, text_RTD, text_RT != PAD_ID, key)
    return jnp.mean(head(x_RQD).astype(jnp.float32), axis=1)

  def lm_logits(
    self,
    queries: qformer.Queries,
    target_RT: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Logits of each target token from those before it and the image.

    Args:
      queries: from `see`, of B images.
      target_RT: int32[R, T], without [CLS], padded at the end; R a multiple of
        B, adjacent texts share an image.
      key: for dropout; None for none.

    Returns:
      float32[R, T, V].
    """
    head = _head(self.lm_head, "lm")
    inputs_RT = jnp.pad(
      target_RT[:, :-1], ((0, 0), (1, 0)), constant_values=self.start_id
    )
    text_RTD = self.embedding(inputs_RT, queries.hidden_BQD.dtype)
    x_RTD = self.qformer.write(queries, text_RTD, key)
    return head(x_RTD, self.embedding.words)

  def similarity(self, image_BQE: jax.Array, text_RE: jax.Array) -> jax.Array:
    """Cosine of each text with that query of each image that fits it best.

    Args:
      image_BQE: float32[B, Q, E], from `image_features`.
      text_RE: float32[R, E], from `text_features`; any R.

    Returns:
      float32[B, R], not yet divided by the temperature.
    """
    return jnp.max(jnp.einsum("BQE,RE->BQR", image_BQE, text_RE), axis=1)


class LMHead(nnx.Module):
  """BERT's: a layer, a norm, then products with the tokens' vectors."""

  def __init__(self, rows: int, width: int, *, rngs: layers.Keys):
    self.transform = layers.Linear(
      width, width, ("embed", None), rngs=rngs, use_bias=True
    )
    self.norm = layers.LayerNorm(width, eps=qformer.EPS)
    self.bias = layers.constant((rows,), ("vocab",), 0.0)

  def __call__(self, x_RTD: jax.Array, words: layers.Embedding) -> jax.Array:
    """float[R, T, D] -> float32[R, T, V]."""
    x_RTD = self.norm(layers.ACTIVATIONS["gelu_erf"](self.transform(x_RTD)))
    return words.scores(x_RTD).astype(jnp.float32) + self.bias[...][None, None]


def _head(head: H | None, name: str) -> H:
  if head is None:
    raise ValueError(f"this model was made with has_{name}_head=False.")
  return head


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  # The reference's bound of the length.
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
