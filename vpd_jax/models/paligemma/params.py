"""Our names of PaliGemma's arrays, and those of the two foreign formats.

A checkpoint holds the whole model: its one part is "model". `hf_config.py`
does the same for config.json.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vpd_jax.models import vit_names
from vpd_jax.models.renames import Layout, Rename, Table

PARTS = ("model",)

_BLOCKS = "decoder/blocks"
# Our norm of a block -> theirs. Gemma 2 calls "post attention" what it says;
# Gemma 1's of that name comes before the MLP.
_HF_NORMS = {
  False: {
    "norm_attention": "input_layernorm",
    "norm_mlp": "post_attention_layernorm",
  },
  True: {
    "norm_attention": "input_layernorm",
    "norm_attention_out": "post_attention_layernorm",
    "norm_mlp": "pre_feedforward_layernorm",
    "norm_mlp_out": "post_feedforward_layernorm",
  },
}
_PRE_NORMS = {
  "norm_attention": "pre_attention_norm",
  "norm_mlp": "pre_ffw_norm",
}
_POST_NORMS = {
  "norm_attention_out": "post_attention_norm",
  "norm_mlp_out": "post_ffw_norm",
}


def table(options: Mapping[str, Any], part: str) -> Table:
  """Names in transformers' files, as any of its versions writes them.

  Args:
    options: keyword arguments of `model.Model`.
    part: "model".

  Raises:
    ValueError: if there is no such part, or the tower is not SigLIP's.
  """
  _check(options, part)
  text = "language_model"
  renames = [
    *vit_names.siglip("vit/", "vision_tower.", options["vit_depth"]),
    *vit_names.linear("projection", "multi_modal_projector.linear"),
    Rename("embedding/table", f"{text}.embed_tokens.weight"),
    Rename("decoder/norm/scale", f"{text}.norm.weight"),
    *_hf_blocks(options, f"{text}.layers.{{}}"),
  ]
  return Table(
    renames=tuple(renames),
    # transformers 5 writes the prefix; files on the hub have none, and the
    # spellings below. Versions between have both.
    prefix="model.",
    spellings=(
      (r"^language_model\.lm_head\.", "lm_head."),
      (r"^language_model\.model\.", "language_model."),
      (r"^vision_tower\.vision_model\.", "vision_tower."),
    ),
    ignored=(
      r"vision_tower\.head\..*",
      r"vision_tower\.embeddings\.position_ids",
      r"language_model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    ),
    copies={"lm_head.weight": f"{text}.embed_tokens.weight"},
  )


def _hf_blocks(options: Mapping[str, Any], theirs: str) -> Iterator[Rename]:
  depth = options["depth"]
  norms = _HF_NORMS[options.get("has_post_norms", False)]
  for ours, name in norms.items():
    yield Rename(
      f"{_BLOCKS}/{ours}/scale", f"{theirs}.{name}.weight", layers=depth
    )
  kernels = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
  }
  for ours, name in kernels.items():
    yield Rename(
      f"{_BLOCKS}/{ours}/kernel",
      f"{theirs}.{name}.weight",
      Layout.TRANSPOSED,
      layers=depth,
    )


def big_vision(options: Mapping[str, Any], part: str) -> Table:
  """Names in big_vision's files, whose Gemma is scanned: layers on axis 0.

  Args:
    options: keyword arguments of `model.Model`.
    part: "model".

  Raises:
    ValueError: as `table`.
  """
  _check(options, part)
  tower = options["vit_depth"], options["vit_heads"]
  renames = [
    *vit_names.big_vision("vit/", "img/", *tower),
    Rename("projection/kernel", "img/head/kernel"),
    Rename("projection/bias", "img/head/bias"),
    Rename("embedding/table", "llm/embedder/input_embedding"),
    Rename("decoder/norm/scale", "llm/final_norm/scale"),
    *_big_vision_blocks(options),
  ]
  return Table(renames=tuple(renames))


def _big_vision_blocks(options: Mapping[str, Any]) -> Iterator[Rename]:
  depth, heads, kv_heads = (options[n] for n in ("depth", "heads", "kv_heads"))
  layer = "llm/layers"

  def kernel(ours, theirs, layout=Layout.SAME, part=None):
    return Rename(
      f"{_BLOCKS}/{ours}/kernel",
      f"{layer}/{theirs}",
      layout,
      layers=depth,
      part=part,
    )

  if heads == kv_heads:  # Queries, keys and values are one array.
    joined, names = "attn/qkv_einsum/w", ("query", "key", "value")
  else:
    joined, names = "attn/kv_einsum/w", ("key", "value")
    first = Layout.heads_first(heads)
    yield kernel("attention/query", "attn/q_einsum/w", first)
  row = Layout.heads_first(kv_heads).in_row()
  for index, name in enumerate(names):
    yield kernel(f"attention/{name}", joined, row, (index, len(names)))
  out = Layout.heads_out(heads)
  yield kernel("attention/out", "attn/attn_vec_einsum/w", out)
  for index, name in enumerate(("gate", "up")):
    one = Layout.ONE_ROW, (index, 2)
    yield kernel(f"mlp/{name}", "mlp/gating_einsum", *one)
  yield kernel("mlp/down", "mlp/linear")
  norms = _PRE_NORMS
  if options.get("has_post_norms", False):
    norms = norms | _POST_NORMS
  for ours, theirs in norms.items():
    yield Rename(
      f"{_BLOCKS}/{ours}/scale", f"{layer}/{theirs}/scale", layers=depth
    )


def big_vision_options(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Options of the model that the arrays of a big_vision file have.

  What no shape tells follows from how big_vision computes: no window; caps of
  50 and 30 where there are norms behind attention and MLP, as in Gemma 2; and
  its 27B alone, whose heads alone are 128 wide, divides scores by the square
  root of width / heads.

  Args:
    shapes: their name -> shape.

  Raises:
    ValueError: if it holds no PaliGemma.
  """
  block = "img/Transformer/encoderblock_0"
  vit_query = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
  layer = "llm/layers"
  table, out = "llm/embedder/input_embedding", f"{layer}/attn/attn_vec_einsum/w"
  linear = f"{layer}/mlp/linear"
  needed = (
    "img/embedding/kernel",
    "img/pos_embedding",
    vit_query,
    table,
    out,
    linear,
  )
  missing = [name for name in needed if name not in shapes]
  if missing:
    raise ValueError(f"a big_vision file of a PaliGemma has {missing}.")
  patch, _, _, vit_width = shapes["img/embedding/kernel"]
  vit_blocks = {n.split("/")[2] for n in shapes if "/encoderblock_" in n}
  vocab_size, width = shapes[table]
  depth, heads, head_width, _ = shapes[out]
  kv = shapes.get(f"{layer}/attn/kv_einsum/w")
  is_gemma2 = f"{layer}/post_ffw_norm/scale" in shapes
  return dict(
    vocab_size=vocab_size,
    image_size=math.isqrt(shapes["img/pos_embedding"][1]) * patch,
    stem=((patch, vit_width),),
    vit_depth=len(vit_blocks),
    vit_heads=shapes[vit_query][1],
    vit_mlp_width=shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][1],
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=heads if kv is None else kv[2],
    head_width=head_width,
    mlp_width=shapes[linear][1],
    has_post_norms=is_gemma2,
    query_width=width // heads if head_width == 128 else head_width,
    attention_softcap=50.0 if is_gemma2 else None,
    logits_softcap=30.0 if is_gemma2 else None,
    window=None,
  )


def _check(options: Mapping[str, Any], part: str) -> None:
  if part not in PARTS:
    raise ValueError(f"paligemma has no part {part!r}; it has {[*PARTS]}.")
  if len(options["stem"]) != 1:
    raise ValueError(
      f"a stem of {len(options['stem'])} steps, {options['stem']}, has no"
      " counterpart in SigLIP."
    )
