"""Our names of T5Gemma 2's arrays, and those in Hugging Face's files."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

from vpd_jax.models import vit_names
from vpd_jax.models.renames import Layout, Rename, Table

PARTS = ("model",)

_ENCODER = "model.encoder."
_TEXT = {"encoder": "model.encoder.text_model", "decoder": "model.decoder"}
_EMBEDDING = f"{_TEXT['encoder']}.embed_tokens"
_COPY = f"{_TEXT['decoder']}.embed_tokens"
_NORMS = {
  "norm_attention": "pre_self_attn_layernorm",
  "norm_attention_out": "post_self_attn_layernorm",
  "norm_mlp": "pre_feedforward_layernorm",
  "norm_mlp_out": "post_feedforward_layernorm",
  "attention/query_norm": "self_attn.q_norm",
  "attention/key_norm": "self_attn.k_norm",
}
_LINEARS = {
  "attention/query": "self_attn.q_proj",
  "attention/key": "self_attn.k_proj",
  "attention/value": "self_attn.v_proj",
  "attention/out": "self_attn.o_proj",
  "mlp/gate": "mlp.gate_proj",
  "mlp/up": "mlp.up_proj",
  "mlp/down": "mlp.down_proj",
}


def table(options: Mapping[str, Any], part: str) -> Table:
  """Names in files of `T5Gemma2ForConditionalGeneration`.

  Args:
    options: keyword arguments of `model.Model`.
    part: "model", all of it.
  """
  assert part in PARTS, part
  tower = f"{_ENCODER}vision_tower."
  projector = f"{_ENCODER}multi_modal_projector"
  renames = [
    *vit_names.siglip("vit/", tower, options["vit_depth"]),
    Rename("image_norm/scale", f"{projector}.mm_soft_emb_norm.weight"),
    Rename("projection/kernel", f"{projector}.mm_input_projection_weight"),
    Rename("embedding/table", f"{_EMBEDDING}.weight"),
    Rename("end_of_image", f"{_EMBEDDING}.eoi_embedding"),
    *_stack("encoder", options["encoder_depth"]),
    *_stack("decoder", options["decoder_depth"]),
  ]
  return Table(
    renames=tuple(renames),
    # Files on the hub are of transformers 5.0, which named two modules
    # otherwise.
    spellings=(
      (
        r"^model\.encoder\.(embed_tokens|norm|layers)\.",
        rf"{_TEXT['encoder']}.\1.",
      ),
      (r"\.vision_tower\.vision_model\.", ".vision_tower."),
    ),
    ignored=(
      r"model\.encoder\.vision_tower\.head\..*",
      r"model\.encoder\.vision_tower\.embeddings\.position_ids",
    ),
    copies=types.MappingProxyType(
      {
        f"{_COPY}.weight": f"{_EMBEDDING}.weight",
        f"{_COPY}.eoi_embedding": f"{_EMBEDDING}.eoi_embedding",
        "lm_head.out_proj.weight": f"{_EMBEDDING}.weight",
      }
    ),
  )


def _stack(name: str, depth: int) -> Iterator[Rename]:
  theirs = _TEXT[name]
  yield Rename(f"{name}/norm/scale", f"{theirs}.norm.weight")
  for ours, foreign in _NORMS.items():
    yield Rename(
      f"{name}/blocks/{ours}/scale",
      f"{theirs}.layers.{{}}.{foreign}.weight",
      layers=depth,
    )
  for ours, foreign in _LINEARS.items():
    yield Rename(
      f"{name}/blocks/{ours}/kernel",
      f"{theirs}.layers.{{}}.{foreign}.weight",
      Layout.TRANSPOSED,
      layers=depth,
    )
