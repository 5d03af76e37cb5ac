"""How counts of floating-point operations are made up; families fill them in.

What is counted, here and in each family's `flops.py`:

- a product of [m, k] and [k, n] is 2 m k n; norms, softmax, activations and
  embeddings are nothing;
- padding counts as tokens do, for it is computed;
- causal attention counts half of what is computed, for half of it is masked
  away; windows count whole;
- low-rank updates count nothing: below a hundredth of what they are added to.

Source: Chowdhery et al., PaLM, arXiv:2204.02311, appendix B, for counting
model FLOPs apart from those that are done again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vpd_jax.models import attention as attention_lib

# In the order in which data moves: each is computed from those before it.
# "embed" computes nothing; its parameters are below what comes after.
PARTS = ("image", "embed", "encode", "decode", "head")


@dataclasses.dataclass(frozen=True)
class Count:
  """FLOPs of a forward pass.

  Attributes:
    products: of activations with weights.
    attention: of queries with keys, and of weights with values.
  """

  products: float = 0.0
  attention: float = 0.0

  @property
  def total(self) -> float:
    """Of both."""
    return self.products + self.attention

  def __add__(self, other: "Count") -> "Count":
    return Count(
      self.products + other.products, self.attention + other.attention
    )

  def __mul__(self, times: float) -> "Count":
    return Count(self.products * times, self.attention * times)


def product(tokens: float, width_in: float, width_out: float) -> Count:
  """[tokens, width_in] by [width_in, width_out]."""
  return Count(products=2.0 * tokens * width_in * width_out)


def attention(
  queries: float, keys: float, width: float, *, is_causal: bool = False
) -> Count:
  """Scores and sums of all heads together, which are `width` wide."""
  count = Count(attention=4.0 * queries * keys * width)
  return count * 0.5 if is_causal else count


def across(
  queries: int, keys: int, width: int, heads: int, head_width: int
) -> Count:
  """Keys, values, scores and sums over another sequence, `width` wide.

  As `models.attention.Attention.across` computes them: few queries make no
  keys. Quantized ones do, and are counted so much too low.
  """
  inner = heads * head_width
  if attention_lib.is_turned(queries, keys, width, head_width):
    turned = product(queries, width, 2 * inner)
    return turned + attention(queries, keys, heads * width)
  made = product(keys, width, 2 * inner)
  return made + attention(queries, keys, inner)


def vit(options: Mapping[str, Any], image_px: int) -> tuple[Count, int]:
  """(count, patches) of `models.vit.ViT` for one image of that side."""
  side, width = image_px, 3
  total = Count()
  for step, width_out in options["stem"]:
    side //= step
    total += product(side**2, step**2 * width, width_out)
    width = width_out
  blocks = vit_block(side**2, width, options["vit_mlp_width"])
  return total + blocks * options["vit_depth"], side**2


def vit_block(tokens: int, width: int, mlp_width: int) -> Count:
  """Self-attention and an MLP of two matrices."""
  return (
    product(tokens, width, 4 * width)
    + product(tokens, width, 2 * mlp_width)
    + attention(tokens, tokens, width)
  )


def rows(options: Mapping[str, Any]) -> int:
  """V: rows of the output matrix."""
  multiple = options.get("vocab_multiple", 1)
  return -(-options["vocab_size"] // multiple) * multiple


def head(options: Mapping[str, Any], target: int) -> Count:
  """Hidden states of a target to logits."""
  return product(target, options["width"], rows(options))


Forward = dict[str, Count]
Patterns = dict[str, Sequence[str]]
