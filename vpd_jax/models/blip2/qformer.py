"""The Q-Former: a BERT whose learned queries look at an image.

Queries and text go through the same self-attention; each has an MLP of its
own, and in every second block the queries look at the image's tokens. Who sees
whom, with two queries and three tokens of text, rows looking:

    see        read         match         write
    q q        t t t        q q t t t     q q | t t t
    1 1        1 1 1        1 1 1 1 1     1 1 | 1 0 0
    1 1        1 1 1        1 1 1 1 1     1 1 | 1 1 0
               1 1 1        1 1 1 1 1     1 1 | 1 1 1
                            (5 rows)      (text's rows)

`write` takes queries' keys and values from `see`: they know nothing of a text.

Letters beyond the common legend: R texts, R = M B; M adjacent texts share an
image.

Source: Li et al., BLIP-2, arXiv:2301.12597, section 3.1 and figure 2; LAVIS,
lavis/models/blip2_models/Qformer.py. Departure: no dropout but that of
low-rank updates.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vpd_jax.models import attention, layers, stack

EPS = 1e-12  # BERT's.
STD = 0.02  # BERT's, of queries, tokens and positions.

KeysValues = tuple[jax.Array, jax.Array]


class Queries(NamedTuple):
  """What the queries have seen.

  Attributes:
    hidden_BQD: float[B, Q, D], their output.
    prefix: self-attention's keys and values of every block, for `write`:
      (those of first blocks, of second), each a pair of
      float[layers / 2, B, Q, N, H].
  """

  hidden_BQD: jax.Array
  prefix: tuple[KeysValues, KeysValues]


class QFormer(nnx.Module):
  """Learned queries, and a stack that they may share with a text.

  Args:
    queries: how many.
    width, depth, heads, mlp_width: of the stack; an even number of blocks.
    image_width: of the image's tokens.
    has_text: whether blocks have an MLP for text; without, only `see` works.
    is_scanned, remat: how pairs of blocks are run; see `stack.run`.

  Raises:
    ValueError: if the depth is odd.
  """

  def __init__(
    self,
    *,
    queries: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    image_width: int,
    has_text: bool,
    is_scanned: bool = True,
    remat: str = "none",
    rngs: layers.Keys,
  ):
    if depth % 2:
      raise ValueError(
        f"a Q-Former of {depth} blocks: every second looks at the image, so"
        f" it needs an even number; try {depth + 1}."
      )
    self.queries = layers.param(
      rngs.params(), (queries, width), (None, "embed"), STD
    )
    self.norm = layers.LayerNorm(width, eps=EPS)
    shape = (width, heads, mlp_width)
    self.pairs = stack.make(
      lambda rngs: Pair(*shape, image_width, has_text, rngs=rngs),
      depth // 2,
      rngs,
    )
    self.is_scanned, self.remat = is_scanned, remat

  def see(self, image_BPD: jax.Array, key: jax.Array | None = None) -> Queries:
    """Queries alone look at an image, float[B, P, D]."""
    x_BQD = self.norm(self._queries(image_BPD.shape[0], image_BPD.dtype))
    hidden_BQD, prefix = self._run(
      x_BQD, x_BQD.shape[1], None, image_BPD, key, keeps_keys=True
    )
    return Queries(hidden_BQD, prefix)

  def read(
    self,
    text_RTD: jax.Array,
    mask_RT: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """A text alone, looking both ways.

    Args:
      text_RTD: float[R, T, D], embedded.
      mask_RT: bool[R, T], True at a real token.
      key: for dropout; None for none.

    Returns:
      float[R, T, D].
    """
    x_RTD = self.norm(text_RTD)
    return self._run(x_RTD, 0, mask_RT[:, None], None, key)[0]

  def match(
    self,
    image_BPD: jax.Array,
    text_RTD: jax.Array,
    mask_RT: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Queries look at an image and at a text, the text at them.

    Args:
      image_BPD: float[B, P, D].
      text_RTD: float[R, T, D], embedded; R a multiple of B, adjacent rows
        share an image, whose keys and values are not repeated.
      mask_RT: bool[R, T], True at a real token.
      key: for dropout; None for none.

    Returns:
      float[R, Q, D], the queries.
    """
    queries_RQD = self._queries(text_RTD.shape[0], text_RTD.dtype)
    x_RTD = self.norm(jnp.concatenate([queries_RQD, text_RTD], axis=1))
    queries = queries_RQD.shape[1]
    mask_RT = jnp.pad(mask_RT, ((0, 0), (queries, 0)), constant_values=True)
    x_RTD, _ = self._run(x_RTD, queries, mask_RT[:, None], image_BPD, key)
    return x_RTD[:, :queries]

  def write(
    self,
    queries: Queries,
    text_RTD: jax.Array,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """A text looks back at itself, and at queries that have seen an image.

    Args:
      queries: from `see`, of B images.
      text_RTD: float[R, T, D], embedded; R a multiple of B, adjacent rows
        share an image.
      key: for dropout; None for none.

    Returns:
      float[R, T, D].
    """
    rows, length, _ = text_RTD.shape
    count = queries.hidden_BQD.shape[1]
    mask_1TS = jnp.pad(
      attention.causal_mask(length),
      ((0, 0), (0, 0), (count, 0)),
      constant_values=True,
    )
    # Keys and values of a few queries; those of the text are as many again.
    repeats = rows // queries.hidden_BQD.shape[0]
    prefix = jax.tree.map(
      lambda x: jnp.repeat(x, repeats, axis=1), queries.prefix
    )
    x_RTD = self.norm(text_RTD)
    return self._run(x_RTD, 0, mask_1TS, None, key, prefix)[0]

  def _queries(self, rows: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    queries_QD = self.queries[...].astype(dtype)
    return jnp.broadcast_to(queries_QD[None], (rows, *queries_QD.shape))

  def _run(
    self,
    x_BTD: jax.Array,
    queries: int,
    mask_BTS: jax.Array | None,
    image_BPD: jax.Array | None,
    key: jax.Array | None,
    prefix: Any = None,
    keeps_keys: bool = False,
  ) -> tuple[jax.Array, Any]:
    """(float[B, T, D], keys and values of all blocks if they are kept)."""

    def body(pair, carry, prefix):
      x_BTD, key = carry
      key, pair_key = layers.split(key, 2)
      x_BTD, keys = pair(x_BTD, queries, mask_BTS, image_BPD, prefix, pair_key)
      return (x_BTD, key), keys if keeps_keys else None

    options = {"is_scanned": self.is_scanned, "remat": self.remat}
    carry, keys = stack.run(self.pairs, body, (x_BTD, key), prefix, **options)
    return carry[0], keys


class Pair(nnx.Module):
  """A block in which queries look at the image, and one in which not."""

  def __init__(self, width, heads, mlp_width, image_width, has_text, *, rngs):
    shape = (width, heads, mlp_width)
    self.first = Block(*shape, image_width, has_text, rngs=rngs)
    self.second = Block(*shape, None, has_text, rngs=rngs)

  def __call__(self, x_BTD, queries, mask_BTS, image_BPD, prefix, key):
    """As `Block`, prefix and keys being pairs."""
    first_key, second_key = layers.split(key, 2)
    before = (None, None) if prefix is None else prefix
    x_BTD, first = self.first(
      x_BTD, queries, mask_BTS, image_BPD, before[0], first_key
    )
    x_BTD, second = self.second(
      x_BTD, queries, mask_BTS, image_BPD, before[1], second_key
    )
    return x_BTD, (first, second)


class Block(nnx.Module):
  """Self-attention, a look at the image, an MLP; a norm after each.

  Args:
    width, heads, mlp_width: of the block.
    image_width: of the image's tokens; None: it does not look at them.
    has_text: whether there is an MLP for text.
  """

  def __init__(self, width, heads, mlp_width, image_width, has_text, *, rngs):
    def attend(width_kv):
      return attention.Attention(
        width,
        heads,
        width // heads,
        rngs=rngs,
        use_bias=True,
        is_scaled=True,
        width_kv=width_kv,
      )

    def mlp():
      return layers.MLP(width, mlp_width, activation="gelu_erf", rngs=rngs)

    def norm():
      return layers.LayerNorm(width, eps=EPS)

    self.attention, self.norm_attention = attend(width), norm()
    self.cross = nnx.data(None if image_width is None else attend(image_width))
    self.norm_cross = nnx.data(None if image_width is None else norm())
    self.mlp_query, self.norm_mlp_query = mlp(), norm()
    self.mlp_text = nnx.data(mlp() if has_text else None)
    self.norm_mlp_text = nnx.data(norm() if has_text else None)

  def __call__(
    self,
    x_BTD: jax.Array,
    queries: int,
    mask_BTS: jax.Array | None,
    image_BPD: jax.Array | None,
    prefix: KeysValues | None,
    key: jax.Array | None,
  ) -> tuple[jax.Array, KeysValues]:
    """One block.

    Args:
      x_BTD: float[B, T, D], queries first, then text.
      queries: how many are queries; the others are text.
      mask_BTS: bool[B or 1, T or 1, S], True where a row may look; None:
        everywhere.
      image_BPD: float[B or fewer, P, D]; None where there are no queries.
      prefix: keys and values that self-attention sees before its own.
      key: for dropout; None for none.

    Returns:
      (float[B, T, D], self-attention's own keys and values).
    """
    kv_key, attention_key, cross_key, query_key, text_key = layers.split(key, 5)
    own = self.attention.keys_values(x_BTD, kv_key)
    keys, values = own
    if prefix is not None:
      keys = jnp.concatenate([prefix[0], keys], axis=1)
      values = jnp.concatenate([prefix[1], values], axis=1)
    x_BTD = self.norm_attention(
      x_BTD + self.attention(x_BTD, keys, values, mask_BTS, key=attention_key)
    )
    parts = []
    if queries:
      q_BQD = self._look(x_BTD[:, :queries], image_BPD, cross_key)
      parts.append(
        self.norm_mlp_query(q_BQD + self.mlp_query(q_BQD, query_key))
      )
    if x_BTD.shape[1] > queries:
      assert self.mlp_text is not None and self.norm_mlp_text is not None
      t_BTD = x_BTD[:, queries:]
      parts.append(self.norm_mlp_text(t_BTD + self.mlp_text(t_BTD, text_key)))
    return jnp.concatenate(parts, axis=1), own

  def _look(self, q_RQD, image_BPD, key) -> jax.Array:
    """float[R, Q, D] -> float[R, Q, D]: queries look at the image."""
    if self.cross is None or self.norm_cross is None:
      return q_RQD
    kv_key, attention_key = layers.split(key, 2)
    keys_values = self.cross.keys_values(image_BPD, kv_key)
    # Cross-attention does not tell rows of an image from queries.
    x_BQD = q_RQD.reshape(image_BPD.shape[0], -1, q_RQD.shape[-1])
    y_BQD = self.cross(x_BQD, *keys_values, None, key=attention_key)
    return self.norm_cross(q_RQD + y_BQD.reshape(q_RQD.shape))


class TextEmbedding(nnx.Module):
  """Vectors of tokens and of positions, which start at 0."""

  def __init__(
    self, rows: int, width: int, positions: int, *, rngs: layers.Keys
  ):
    self.words = layers.Embedding(rows, width, rngs=rngs)
    self.words.table[...] = self.words.table[...] * STD
    self.positions = layers.param(
      rngs.params(), (positions, width), (None, "embed"), STD
    )

  def __call__(
    self, tokens_RT: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
  ) -> jax.Array:
    """int32[R, T] -> float[R, T, D].

    Raises:
      ValueError: if there are more tokens than positions.
    """
    length, positions = tokens_RT.shape[1], self.positions.shape[0]
    if length > positions:
      raise ValueError(
        f"a text of {length} tokens; the Q-Former has {positions} positions."
      )
    positions_TD = self.positions[:length].astype(dtype)
    return self.words(tokens_RT, dtype) + positions_TD[None]
