"""Our names of PaLI's arrays, and those of its parts in Hugging Face's files.

A PaLI is put together from two models: the language side is a
`T5ForConditionalGeneration` (or `MT5...`, same names), the image side a
`SiglipVisionModel`. Only the projection between them is nobody's, and starts
from its own initialisation. `hf_config.py` does the same for config.json.
The image side can come from big_vision too.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vpd_jax.models import vit_names
from vpd_jax.models.pali import encdec
from vpd_jax.models.renames import Layout, Rename, Table

# What no foreign model holds.
FRESH = ("projection/kernel", "projection/bias")

_QKVO = {"query": "q", "key": "k", "value": "v", "out": "o"}
# Repeats of the embedding that files of some versions hold.
_EMBEDDING_COPIES: tuple[str, ...] = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)


def table(options: Mapping[str, Any], part: str) -> Table:
  """Names in transformers' files.

  Args:
    options: keyword arguments of `model.Model`.
    part: "text" (encoder, decoder, embedding and head) or "image" (the tower;
      the file may hold all of a `SiglipModel`).

  Raises:
    ValueError: if no SigLIP computes what the tower does.
  """
  if part == "text":
    return _text(options)
  _check_tower(options)
  layout = Layout.PATCHES
  if options.get("has_naflex_vit", False):
    layout = Layout.TRANSPOSED
  depth = options["vit_depth"]
  return Table(
    renames=tuple(vit_names.siglip("vit/", "", depth, layout)),
    # Files on the hub begin so; those that transformers 5 writes do not.
    prefix="vision_model.",
    module_prefix="",
    ignored=(
      r"head\..*",
      r"embeddings\.position_ids",
      r"text_model\..*",
      r"logit_(scale|bias)",
    ),
  )


def big_vision(options: Mapping[str, Any], part: str) -> Table:
  """Names in big_vision's files, which hold an image tower: part "image".

  Args:
    options: keyword arguments of `model.Model`.
    part: which.

  Raises:
    ValueError: as `table`; or if `part` is not the image.
  """
  if part != "image":
    raise ValueError(f"big_vision's files have no {part!r} of pali.")
  if options.get("has_naflex_vit", False):
    raise ValueError("has_naflex_vit=True: big_vision's NaFlex is not read.")
  _check_tower(options)
  depth, heads = options["vit_depth"], options["vit_heads"]
  return Table(
    renames=tuple(vit_names.big_vision("vit/", "img/", depth, heads)),
    # The pooling head; in SigLIP's files also the text tower, and logits'.
    ignored=(r"img/(MAPHead_0|head)/.*", r"txt/.*", r"[bt]"),
  )


def big_vision_options(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Options of the image tower that the arrays of a big_vision file have.

  Args:
    shapes: their name -> shape.

  Raises:
    ValueError: if it holds no image tower.
  """
  block = "img/Transformer/encoderblock_0"
  query = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
  needed = ("img/embedding/kernel", "img/pos_embedding", query)
  missing = [name for name in needed if name not in shapes]
  if missing:
    raise ValueError(f"a big_vision file of an image tower has {missing}.")
  if any(name.startswith("llm/") for name in shapes):
    raise ValueError("it holds a language model too; pali's image has none.")
  patch, _, _, width = shapes["img/embedding/kernel"]
  grid = math.isqrt(shapes["img/pos_embedding"][1])
  blocks = {name.split("/")[2] for name in shapes if "/encoderblock_" in name}
  return dict(
    image_size=grid * patch,
    stem=((patch, width),),
    vit_depth=len(blocks),
    vit_heads=shapes[query][1],
    vit_mlp_width=shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][1],
  )


def _check_tower(options: Mapping[str, Any]) -> None:
  if len(options["stem"]) != 1:
    raise ValueError(
      f"a stem of {len(options['stem'])} steps, {options['stem']}, has no"
      " counterpart in SigLIP; use a size with one, such as"
      " 'so400m_flan_t5_xl'."
    )
  if options.get("has_parallel_vit", False):
    raise ValueError(
      "has_parallel_vit=True: ViT-22B's blocks have no counterpart in SigLIP."
    )


def _text(options: Mapping[str, Any]) -> Table:
  is_head_tied = options.get("is_head_tied", False)
  is_gated = encdec.MLPS[options.get("mlp", "gated_gelu")][0]
  renames = [Rename("embedding/table", "shared.weight")]
  for stack in ("encoder", "decoder"):
    renames += [
      Rename(
        f"{stack}/bias/table",
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
      ),
      Rename(f"{stack}/norm/scale", f"{stack}.final_layer_norm.weight"),
      *_text_blocks(stack, options[f"{stack}_depth"], is_gated),
    ]
  copies = _EMBEDDING_COPIES
  if is_head_tied:
    copies = (*copies, "lm_head.weight")
  else:
    renames.append(Rename("head/kernel", "lm_head.weight", Layout.TRANSPOSED))
  return Table(
    renames=tuple(renames),
    # The first T5 checkpoints have a table that no version ever read.
    ignored=(
      r"decoder\.block\.0\.layer\.1\.EncDecAttention"
      r"\.relative_attention_bias\.weight",
    ),
    copies=dict.fromkeys(copies, "shared.weight"),
  )


def _text_blocks(stack: str, depth: int, is_gated: bool) -> Iterator[Rename]:
  ours, theirs = f"{stack}/blocks", f"{stack}.block.{{}}.layer"
  attentions = [("attention", "SelfAttention")]
  if stack == "decoder":
    attentions.append(("cross", "EncDecAttention"))

  def norm(name: str, layer: int) -> Rename:
    foreign = f"{theirs}.{layer}.layer_norm.weight"
    return Rename(f"{ours}/norm_{name}/scale", foreign, layers=depth)

  def kernel(name: str, layer: int, foreign: str) -> Rename:
    return Rename(
      f"{ours}/{name}/kernel",
      f"{theirs}.{layer}.{foreign}.weight",
      Layout.TRANSPOSED,
      layers=depth,
    )

  for layer, (name, foreign) in enumerate(attentions):
    yield norm(name, layer)
    for part, letter in _QKVO.items():
      yield kernel(f"{name}/{part}", layer, f"{foreign}.{letter}")
  layer = len(attentions)
  yield norm("mlp", layer)
  mlp = {"gate": "wi_0", "up": "wi_1"} if is_gated else {"up": "wi"}
  for part, foreign in (mlp | {"down": "wo"}).items():
    yield kernel(f"mlp/{part}", layer, f"DenseReluDense.{foreign}")
