"""Our names of BLIP-2's arrays, and those in Hugging Face's files.

Part "model" is a `Blip2ForConditionalGeneration` with a T5, our `model.Model`;
part "retrieval" a `Blip2ForImageTextRetrieval`, our `retrieval.Retrieval`,
whose temperature and lm_head no file of transformers has.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vpd_jax.models import vit_names
from vpd_jax.models.blip2 import vision
from vpd_jax.models.pali import params as pali
from vpd_jax.models.renames import Layout, Rename, Table

# What no foreign model holds; only a retrieval model has them.
FRESH = (
  "temperature",
  "lm_head/transform/kernel",
  "lm_head/transform/bias",
  "lm_head/norm/scale",
  "lm_head/norm/bias",
  "lm_head/bias",
)
# Resizes the table of positions, of which one is the class token's.
resize_positions = vision.resize_positions

_LANGUAGE = "language_model."


def table(options: Mapping[str, Any], part: str) -> Table:
  """Names in transformers' files.

  Args:
    options: keyword arguments of `model.Model` or `retrieval.Retrieval`.
    part: "model" or "retrieval".

  Raises:
    ValueError: for a retrieval model that lacks a head theirs has.
  """
  eyes = [
    *_vision(options["vit_depth"]),
    *_qformer(options["qformer_depth"], has_text=part == "retrieval"),
  ]
  return (_retrieval if part == "retrieval" else _model)(options, eyes)


def _model(options: Mapping[str, Any], eyes: list[Rename]) -> Table:
  text = pali.table(options, "text")
  renames = [
    *eyes,
    *vit_names.linear("projection", "language_projection"),
    *(
      dataclasses.replace(r, foreign=_LANGUAGE + r.foreign)
      for r in text.renames
    ),
  ]
  return Table(
    renames=tuple(renames),
    ignored=tuple(r"language_model\." + p for p in text.ignored),
    copies={_LANGUAGE + a: _LANGUAGE + b for a, b in text.copies.items()},
  )


def _retrieval(options: Mapping[str, Any], eyes: list[Rename]) -> Table:
  for head in ("contrast", "match"):
    if not options.get(f"has_{head}_head", True):
      raise ValueError(
        f"has_{head}_head=False: a Blip2ForImageTextRetrieval has that head."
      )
  renames = [
    *eyes,
    Rename("embedding/words/table", "embeddings.word_embeddings.weight"),
    Rename("embedding/positions", "embeddings.position_embeddings.weight"),
    *vit_names.linear("image_projection", "vision_projection"),
    *vit_names.linear("text_projection", "text_projection"),
    *vit_names.linear("match_head", "itm_head"),
  ]
  return Table(renames=tuple(renames), ignored=(r"embeddings\.position_ids",))


def _vision(depth: int) -> Iterator[Rename]:
  ours, theirs = "vit/blocks", "vision_model.encoder.layers.{}"
  embeddings = "vision_model.embeddings"
  yield Rename(
    "vit/patch/kernel", f"{embeddings}.patch_embedding.weight", Layout.PATCHES
  )
  yield Rename("vit/patch/bias", f"{embeddings}.patch_embedding.bias")
  # Theirs [1, 1, D] and [1, 1 + P, D].
  yield Rename(
    "vit/class_token",
    f"{embeddings}.class_embedding",
    Layout.ONE_ROW.in_row(),
  )
  yield Rename(
    "vit/positions", f"{embeddings}.position_embedding", Layout.ONE_ROW
  )
  yield from vit_names.norm("vit/norm", "vision_model.post_layernorm")
  for name, foreign in {
    "norm_attention": "layer_norm1",
    "norm_mlp": "layer_norm2",
  }.items():
    yield from vit_names.norm(f"{ours}/{name}", f"{theirs}.{foreign}", depth)
  for name, foreign in {
    "attention/out": "self_attn.projection",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
  }.items():
    yield from vit_names.linear(f"{ours}/{name}", f"{theirs}.{foreign}", depth)
  # Theirs are one array of three.
  for index, name in enumerate(("query", "key", "value")):
    for rename in vit_names.linear(
      f"{ours}/attention/{name}", f"{theirs}.self_attn.qkv", depth
    ):
      yield dataclasses.replace(rename, part=(index, 3))


def _qformer(depth: int, has_text: bool) -> Iterator[Rename]:
  yield Rename("qformer/queries", "query_tokens", Layout.ONE_ROW)
  yield from vit_names.norm("qformer/norm", "qformer.layernorm")
  for index, block in enumerate(("first", "second")):
    numbers = range(index, depth, 2)
    for name, foreign in _block(block == "first", has_text):
      make = vit_names.norm if "norm" in name else vit_names.linear
      for rename in make(
        f"qformer/pairs/{block}/{name}", f"qformer.encoder.layer.{{}}.{foreign}"
      ):
        yield dataclasses.replace(rename, layers=numbers)


def _block(has_cross: bool, has_text: bool) -> Iterator[tuple[str, str]]:
  attentions = {"attention": "attention"}
  if has_cross:
    attentions["cross"] = "crossattention"
  for name, foreign in attentions.items():
    for part in ("query", "key", "value"):
      yield f"{name}/{part}", f"{foreign}.attention.{part}"
    yield f"{name}/out", f"{foreign}.output.dense"
    yield f"norm_{name}", f"{foreign}.output.LayerNorm"
  mlps = {"query": "_query"} | ({"text": ""} if has_text else {})
  for name, suffix in mlps.items():
    yield f"mlp_{name}/up", f"intermediate{suffix}.dense"
    yield f"mlp_{name}/down", f"output{suffix}.dense"
    yield f"norm_mlp_{name}", f"output{suffix}.LayerNorm"
