"""BLIP-2's options to and from the config.json beside Hugging Face's weights.

What a config.json may leave out has the default of transformers' own class.
What our models fix (epsilons, activations, where queries look at the image) is
checked, not read. The mean and deviation of pixels are in another file,
preprocessor_config.json; all BLIP-2s have CLIP's.

One model_type is two models: `options` is of `model.Model`, for
Blip2ForConditionalGeneration with a T5; `retrieval_options` of
`retrieval.Retrieval`, for Blip2ForImageTextRetrieval. `part_of` says which.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any

from vpd_jax.models import hf_fields
from vpd_jax.models.pali import hf_config as pali

# model_type of a config.json -> the part of a BLIP-2 that it describes.
MODEL_TYPES: Mapping[str, str] = types.MappingProxyType({"blip-2": "model"})

_RETRIEVAL = "Blip2ForImageTextRetrieval"
_GENERATION = "Blip2ForConditionalGeneration"
# Ours -> (theirs, their default).
_VISION = {
  "image_size": ("image_size", 224),
  "patch_size": ("patch_size", 14),
  "vit_width": ("hidden_size", 1408),
  "vit_depth": ("num_hidden_layers", 39),
  "vit_heads": ("num_attention_heads", 16),
  "vit_mlp_width": ("intermediate_size", 6144),
}
_QFORMER = {
  "qformer_width": ("hidden_size", 768),
  "qformer_depth": ("num_hidden_layers", 12),
  "qformer_heads": ("num_attention_heads", 12),
  "qformer_mlp_width": ("intermediate_size", 3072),
}
_QFORMER_TEXT = {
  "vocab_size": ("vocab_size", 30522),
  "positions": ("max_position_embeddings", 512),
}
_WHOLE = {"queries": ("num_query_tokens", 32)}
_WHOLE_TEXT = {"feature_width": ("image_text_hidden_size", 256)}
_VISION_FIXED = {
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-6,
  "qkv_bias": True,
}
_QFORMER_FIXED = {
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-12,
  "cross_attention_frequency": 2,
  "pad_token_id": 0,
  "position_embedding_type": "absolute",
}
# What feed_forward_proj makes of dense_act_fn, which a file may overrule.
_ACTIVATIONS = {"relu": "relu", "gated_gelu": "gelu_new", "gated_silu": "silu"}


def options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `model.Model` that a config.json decides.

  Args:
    config: config.json, parsed.

  Raises:
    ValueError: if it is of another model, a retrieval model or one with an
      OPT among them; or lacks a field, or says what ours does not compute.
  """
  if is_retrieval(config):
    raise ValueError(
      f"config.json is of a {_RETRIEVAL}: a blip2.retrieval.Retrieval, whose"
      " options retrieval_options reads."
    )
  text = config.get("text_config") or {}
  kind = text.get("model_type", "opt")
  if kind != "t5":
    raise ValueError(
      f"config.json has a text_config of model_type={kind!r}; blip2 reads 't5'."
    )
  # A PaLI computes the usual one only.
  t5 = pali.options({n: x for n, x in text.items() if n != "dense_act_fn"})
  return (
    _eyes(config, has_text=False)
    | t5
    | dict(
      is_gelu_exact=_is_gelu_exact(text, t5["mlp"]),
      image_token_id=config.get("image_token_index"),
    )
  )


def retrieval_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `retrieval.Retrieval`; as `options`."""
  if not is_retrieval(config):
    raise ValueError(
      f"config.json has architectures={config.get('architectures')}; expected"
      f" {_RETRIEVAL}."
    )
  return (
    _eyes(config, has_text=True)
    | _read(config.get("qformer_config"), _QFORMER_TEXT)
    | _read(config, _WHOLE_TEXT)
    | dict(image_token_id=config.get("image_token_index"))
  )


def is_retrieval(config: Mapping[str, Any]) -> bool:
  """Which of the two models a config.json of a BLIP-2 is of.

  Raises:
    ValueError: if it is not of a BLIP-2.
  """
  kind = config.get("model_type")
  if kind not in MODEL_TYPES:
    raise ValueError(
      f"config.json has model_type={kind!r}; blip2 reads {[*MODEL_TYPES]}."
    )
  return _RETRIEVAL in (config.get("architectures") or ())


def part_of(config: Mapping[str, Any]) -> str:
  """ "model" or "retrieval"; see `is_retrieval`."""
  return "retrieval" if is_retrieval(config) else "model"


# Part -> (class of ours, where it is not model.Model; its options' reader).
CLASSES: Mapping[str, tuple[str, Callable[..., dict[str, Any]]]] = (
  types.MappingProxyType(
    {"retrieval": ("retrieval.Retrieval", retrieval_options)}
  )
)


def config(options: Mapping[str, Any], part: str, rows: int) -> dict[str, Any]:
  """config.json to be written beside the weights.

  Args:
    options: keyword arguments of `model.Model` or `retrieval.Retrieval`.
    part: "model" or "retrieval".
    rows: of the embedding.

  Raises:
    ValueError: if no token is left to stand for an image token.
  """
  is_text = part == "retrieval"
  out: dict[str, Any] = _write(
    options, _WHOLE | (_WHOLE_TEXT if is_text else {})
  )
  out |= dict(
    architectures=[_RETRIEVAL if is_text else _GENERATION],
    model_type="blip-2",
    vision_config=_write(options, _VISION)
    | _VISION_FIXED
    | dict(model_type="blip_2_vision_model"),
    qformer_config=_write(
      options, _QFORMER | (_QFORMER_TEXT if is_text else {})
    )
    | _QFORMER_FIXED
    | dict(
      model_type="blip_2_qformer",
      encoder_hidden_size=options["vit_width"],
      use_qformer_text_input=is_text,
    ),
    image_token_index=options.get("image_token_id"),
  )
  if is_text:
    out["qformer_config"]["vocab_size"] = rows
    return out
  out["text_config"] = pali.config(options, "text", rows)
  if options.get("is_gelu_exact", False):
    out["text_config"]["dense_act_fn"] = "gelu"
  if out["image_token_index"] is None:
    if options["vocab_size"] >= rows:
      raise ValueError(
        f"transformers' prompts hold a token for each image token, but all"
        f" {rows} rows of the embedding are other tokens'. Set image_token_id"
        " to one that no prompt has."
      )
    out["image_token_index"] = options["vocab_size"]
  return out


def _eyes(config: Mapping[str, Any], has_text: bool) -> dict[str, Any]:
  vision, qformer = (
    config.get(f"{name}_config") or {} for name in ("vision", "qformer")
  )
  _check_fixed(vision, _VISION_FIXED, "vision_config")
  fixed = _QFORMER_FIXED | dict(use_qformer_text_input=has_text)
  # transformers' own default is False.
  qformer = dict(use_qformer_text_input=False) | qformer
  _check_fixed(qformer, fixed, "qformer_config")
  out = _read(vision, _VISION) | _read(qformer, _QFORMER)
  # What its patches cover.
  out["image_size"] = out["image_size"] // out["patch_size"] * out["patch_size"]
  return out | _read(config, _WHOLE)


def _read(
  config: Mapping[str, Any] | None, names: Mapping[str, Any]
) -> dict[str, int]:
  out = {}
  for ours, (theirs, default) in names.items():
    out[ours] = (config or {}).get(theirs, default)
    hf_fields.check_counts({theirs: out[ours]})
  return out


def _write(
  options: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, Any]:
  return {
    theirs: options.get(ours, default)
    for ours, (theirs, default) in names.items()
  }


def _check_fixed(
  config: Mapping[str, Any], fixed: Mapping[str, Any], where: str
) -> None:
  for name, value in fixed.items():
    if config.get(name, value) != value:
      raise ValueError(
        f"config.json has {name}={config[name]!r} in {where}; blip2 computes"
        f" with {value!r} only."
      )


def _is_gelu_exact(text: Mapping[str, Any], mlp: str) -> bool:
  usual = _ACTIVATIONS[mlp]
  found = text.get("dense_act_fn", usual)
  if (mlp, found) == ("gated_gelu", "gelu"):
    return True
  if found != usual:
    raise ValueError(
      f"config.json has dense_act_fn={found!r} in text_config; blip2 computes"
      f" {usual!r} for feed_forward_proj={text.get('feed_forward_proj')!r}."
    )
  return False
