"""PaLI's options to and from the config.json of its parts on Hugging Face.

What a config.json may leave out has the default of transformers' own class.
What our model fixes (epsilon, buckets, special tokens) is checked, not read.
"""

import math
import types
from collections.abc import Mapping
from typing import Any

from vpd_jax.models import hf_fields

# model_type of a config.json -> the part of a PaLI that it describes.
MODEL_TYPES: Mapping[str, str] = types.MappingProxyType(
  {
    "t5": "text",
    "mt5": "text",
    "siglip": "image",
    "siglip_vision_model": "image",
    "siglip2": "image",
    "siglip2_vision_model": "image",
  }
)

_MLPS = {
  "relu": "relu",
  "gated-gelu": "gated_gelu",
  "gated-silu": "gated_silu",
}
# What transformers makes of feed_forward_proj. A file may have the result too,
# and then that counts: a BLIP-2's T5 says "gelu", the exact one.
_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-silu": "silu"}
# Field of a T5's config.json -> what our model computes with.
_TEXT_FIXED = {
  "layer_norm_epsilon": 1e-6,
  "relative_attention_num_buckets": 32,
  "relative_attention_max_distance": 128,
  "pad_token_id": 0,
  "decoder_start_token_id": 0,
}
_TEXT_NEEDED = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")
_IMAGE_FIXED = {
  "num_channels": 3,
  "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
}
_IMAGE_DEFAULTS = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "patch_size": 16,
}
# Of squares of one size, and of pictures of any shape (NaFlex).
_SIZE_DEFAULTS = {
  "siglip": ("image_size", 224),
  "siglip2": ("num_patches", 256),
}


def options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `model.Model` that a config.json decides.

  Of a T5 (1.0, v1.1, Flan-T5, UL2) or mT5 those of the language side,
  vocab_size among them. Of a SigLIP, or a SigLIP 2 of fixed size or NaFlex,
  whole or its vision model, those of the image side. The image size is what
  its patches cover: 378 where the file says 384 and patches have 14 pixels,
  of which 27 fit.

  Args:
    config: config.json, parsed.

  Raises:
    ValueError: if it is of another model, or lacks a field, or says what our
      model does not compute.
  """
  kind = config.get("model_type", "")
  if kind not in MODEL_TYPES:
    raise ValueError(
      f"config.json has model_type={kind!r}; pali reads {[*MODEL_TYPES]}."
    )
  read = _text_options if MODEL_TYPES[kind] == "text" else _image_options
  return read(config)


def copies(config: Mapping[str, Any]) -> dict[str, str]:
  """Names that a file may leave out, to the names that they are copies of.

  transformers 5 ties the heads of T5 v1.1 and mT5 too where a file of its own
  has none: logits are of the embedding, and not scaled as T5 1.0's. Ours have
  a head of their own, which starts as that copy and computes the same.
  """
  if MODEL_TYPES[config["model_type"]] != "text":
    return {}
  is_tied_there = config.get("tie_word_embeddings", True)
  if not is_tied_there or _text_options(config)["is_head_tied"]:
    return {}
  return {"lm_head.weight": "shared.weight"}


def config(options: Mapping[str, Any], part: str, rows: int) -> dict[str, Any]:
  """config.json to be written beside the weights of a part.

  The language side becomes a T5ForConditionalGeneration, an mT5 too, which
  computes the same; the image side a SiglipVisionModel without its head.

  Args:
    options: keyword arguments of `model.Model`.
    part: "text" or "image".
    rows: of the embedding.

  Raises:
    ValueError: if no T5 computes what these options do.
  """
  return (
    _text_config(options, rows) if part == "text" else _image_config(options)
  )


def _text_options(config: Mapping[str, Any]) -> dict[str, Any]:
  kind = config["model_type"]
  missing = [n for n in (*_TEXT_NEEDED, "vocab_size") if n not in config]
  if missing:
    raise ValueError(f"config.json of model_type={kind!r} lacks {missing}.")
  counts = {name: config[name] for name in (*_TEXT_NEEDED, "vocab_size")}
  # Some files say null for "as many as the encoder".
  decoder_depth = config.get("num_decoder_layers")
  if decoder_depth is None:
    decoder_depth = config["num_layers"]
  hf_fields.check_counts(counts | {"num_decoder_layers": decoder_depth})
  _check_fixed(config, _TEXT_FIXED)
  mlp = config.get(
    "feed_forward_proj", "relu" if kind == "t5" else "gated-gelu"
  )
  if mlp not in _MLPS:
    raise ValueError(
      f"config.json has feed_forward_proj={mlp!r}; known are {sorted(_MLPS)}."
    )
  _check_fixed(
    config,
    {
      "dense_act_fn": _ACTIVATIONS[mlp],
      "is_gated_act": mlp.startswith("gated-"),
    },
  )
  # T5 scales what goes into a tied head; mT5 has one of its own, and says so
  # or not. transformers 5 calls every head tied and keeps the old meaning in
  # the second field.
  is_tied = config.get("tie_word_embeddings", True)
  is_tied = kind == "t5" and config.get("scale_decoder_outputs", is_tied)
  return dict(
    vocab_size=config["vocab_size"],
    width=config["d_model"],
    heads=config["num_heads"],
    head_width=config["d_kv"],
    mlp_width=config["d_ff"],
    encoder_depth=config["num_layers"],
    decoder_depth=decoder_depth,
    mlp=_MLPS[mlp],
    is_head_tied=is_tied,
  )


def _image_options(config: Mapping[str, Any]) -> dict[str, Any]:
  kind = config["model_type"].removesuffix("_vision_model")
  if kind == config["model_type"]:
    config = config.get("vision_config", {})
  _check_fixed(config, _IMAGE_FIXED)
  size_name, size = _SIZE_DEFAULTS[kind]
  defaults = _IMAGE_DEFAULTS | {size_name: size}
  read = {name: config.get(name, defaults[name]) for name in defaults}
  hf_fields.check_tower(read, grid=size_name)
  patch = read["patch_size"]
  if kind == "siglip2":
    side = math.isqrt(read["num_patches"])
    if side**2 != read["num_patches"]:
      raise ValueError(
        f"config.json has num_patches={read['num_patches']}; pali reads a"
        " square's."
      )
    image_size, naflex = side * patch, {"has_naflex_vit": True}
  else:
    image_size, naflex = read["image_size"] // patch * patch, {}
  return naflex | dict(
    image_size=image_size,
    stem=((patch, read["hidden_size"]),),
    vit_depth=read["num_hidden_layers"],
    vit_heads=read["num_attention_heads"],
    vit_mlp_width=read["intermediate_size"],
  )


def _text_config(options: Mapping[str, Any], rows: int) -> dict[str, Any]:
  if options.get("is_attention_scaled", False):
    raise ValueError(
      "is_attention_scaled=True: T5 does not divide scores by"
      " sqrt(head_width), so this model has no counterpart in transformers."
    )
  mlp = options.get("mlp", "gated_gelu")
  return dict(
    architectures=["T5ForConditionalGeneration"],
    model_type="t5",
    is_encoder_decoder=True,
    vocab_size=rows,
    d_model=options["width"],
    num_heads=options["heads"],
    d_kv=options["head_width"],
    d_ff=options["mlp_width"],
    num_layers=options["encoder_depth"],
    num_decoder_layers=options["decoder_depth"],
    feed_forward_proj={ours: theirs for theirs, ours in _MLPS.items()}[mlp],
    tie_word_embeddings=options.get("is_head_tied", False),
    eos_token_id=1,
    **_TEXT_FIXED,
  )


def _image_config(options: Mapping[str, Any]) -> dict[str, Any]:
  ((patch, width),) = options["stem"]
  side = options["image_size"]
  if options.get("has_naflex_vit", False):
    kind = dict(
      architectures=["Siglip2VisionModel"],
      model_type="siglip2_vision_model",
      num_patches=(side // patch) ** 2,
    )
  else:
    kind = dict(
      architectures=["SiglipVisionModel"],
      model_type="siglip_vision_model",
      image_size=side,
    )
  return kind | dict(
    hidden_size=width,
    intermediate_size=options["vit_mlp_width"],
    num_hidden_layers=options["vit_depth"],
    num_attention_heads=options["vit_heads"],
    patch_size=patch,
    vision_use_head=False,
    **_IMAGE_FIXED,
  )


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
  for name, value in fixed.items():
    if config.get(name, value) != value:
      raise ValueError(
        f"config.json has {name}={config[name]!r}; pali computes with"
        f" {value!r} only."
      )
