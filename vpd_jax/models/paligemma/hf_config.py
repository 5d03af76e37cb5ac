"""PaliGemma's options to and from a config.json on Hugging Face.

What a config.json may leave out has the default of transformers' own class.
What our model fixes (epsilon, frequencies, activations) is checked, not read.
"""

import types
from collections.abc import Mapping
from typing import Any

from vpd_jax.models import hf_fields

# model_type of a config.json -> the part of the model that it describes.
MODEL_TYPES: Mapping[str, str] = types.MappingProxyType({"paligemma": "model"})

_IMAGE_TYPE = "siglip_vision_model"
_IMAGE_DEFAULTS = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "image_size": 224,
  "patch_size": 16,
}
_IMAGE_FIXED = {
  "num_channels": 3,
  "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
}
_NAMES = {
  "vocab_size": "vocab_size",
  "hidden_size": "width",
  "intermediate_size": "mlp_width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "heads",
  "num_key_value_heads": "kv_heads",
  "head_dim": "head_width",
}
# In the order of _NAMES: GemmaConfig's and Gemma2Config's defaults.
_TEXT_DEFAULTS = {
  "gemma": (256000, 3072, 24576, 28, 16, 16, 256),
  "gemma2": (256000, 2304, 9216, 26, 8, 4, 256),
}
_TEXT_FIXED = {
  "rms_norm_eps": 1e-6,
  "attention_bias": False,
  "tie_word_embeddings": True,
}
# Field -> all values that mean the tanh form. Gemma 1's first files say
# "gelu", and some null beside it; transformers reads both as that.
_ACTIVATIONS = {
  "gemma": ("hidden_act", ("gelu_pytorch_tanh", "gelu")),
  "gemma2": ("hidden_activation", ("gelu_pytorch_tanh",)),
}
_ROPE_THETA = 10_000.0
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_TOKENS = {"pad_token_id": 0, "eos_token_id": 1}


def options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `model.Model` that a config.json decides.

  Of a PaliGemma 1 or 2, vocab_size among them. The image size is what its
  patches cover.

  Args:
    config: config.json, parsed.

  Raises:
    ValueError: if it is of another model, or says what ours does not compute.
  """
  kind = config.get("model_type", "")
  if kind not in MODEL_TYPES:
    raise ValueError(
      f"config.json has model_type={kind!r}; paligemma reads {[*MODEL_TYPES]}."
    )
  _check(config, "", _TOKENS | {"tie_word_embeddings": True})
  # Its defaults are not those of the parts' classes.
  for part in ("text_config", "vision_config"):
    if not config.get(part):
      raise ValueError(f"config.json of model_type={kind!r} lacks {part}.")
  text = _text_options(config["text_config"])
  projected = config.get("projection_dim", 2048)
  if projected != text["width"]:
    raise ValueError(
      f"config.json has projection_dim={projected}; image tokens must have"
      f" the width of text_config, {text['width']}."
    )
  return _image_options(config["vision_config"]) | text


def config(options: Mapping[str, Any], part: str, rows: int) -> dict[str, Any]:
  """config.json to be written beside the weights.

  Args:
    options: keyword arguments of `model.Model`.
    part: "model".
    rows: of the embedding.

  Raises:
    ValueError: if no PaliGemma of transformers computes what these options do.
  """
  assert part == "model", part
  text = _text_config(options, rows)
  image = _image_config(options) | {"projection_dim": options["width"]}
  return dict(
    architectures=["PaliGemmaForConditionalGeneration"],
    model_type="paligemma",
    vision_config=image,
    text_config=text,
    projection_dim=options["width"],
    hidden_size=options["width"],
    vocab_size=rows,
    # Stands for image tokens in a prompt; the first that is no text.
    image_token_index=_image_token(rows),
    bos_token_id=2,
    tie_word_embeddings=True,
    **_TOKENS,
  )


def _image_token(rows: int) -> int:
  """PaliGemma's own where the table has it, else the last row."""
  return min(257152, rows - 1)


def _text_options(config: Mapping[str, Any]) -> dict[str, Any]:
  kind = config.get("model_type", "gemma")
  if kind not in _TEXT_DEFAULTS:
    raise ValueError(
      f"text_config has model_type={kind!r}; paligemma reads"
      f" {[*_TEXT_DEFAULTS]}."
    )
  _check(config, "text_config.", _TEXT_FIXED)
  _check_rope(config)
  field, meanings = _ACTIVATIONS[kind]
  activation = config.get(field, meanings[0])
  if activation not in meanings:
    raise ValueError(
      f"text_config.{field}={activation!r}; paligemma computes"
      f" {meanings[0]!r} only."
    )
  defaults = dict(zip(_NAMES, _TEXT_DEFAULTS[kind], strict=True))
  found = {name: config.get(name, defaults[name]) for name in _NAMES}
  hf_fields.check_counts(found, "text_config.")
  read = {ours: found[name] for name, ours in _NAMES.items()}
  if kind == "gemma":
    return read
  return read | dict(
    has_post_norms=True,
    query_width=config.get("query_pre_attn_scalar", 256),
    attention_softcap=config.get("attn_logit_softcapping", 50.0),
    logits_softcap=config.get("final_logit_softcapping", 30.0),
    window=_window(config, read["depth"]),
  )


def _window(config: Mapping[str, Any], depth: int) -> int | None:
  kinds = config.get("layer_types") or _alternating(depth)
  if list(kinds) == [_GLOBAL] * depth:
    return None
  if list(kinds) != _alternating(depth):
    raise ValueError(
      f"text_config.layer_types={kinds}; paligemma computes {_LOCAL} and"
      f" {_GLOBAL} in turn, or {_GLOBAL} alone, in {depth} layers."
    )
  return config.get("sliding_window", 4096)


def _alternating(depth: int) -> list[str]:
  return [_GLOBAL if layer % 2 else _LOCAL for layer in range(depth)]


def _image_options(config: Mapping[str, Any]) -> dict[str, Any]:
  kind = config.get("model_type", _IMAGE_TYPE)
  if kind != _IMAGE_TYPE:
    raise ValueError(
      f"vision_config has model_type={kind!r}; paligemma reads {_IMAGE_TYPE!r}."
    )
  _check(config, "vision_config.", _IMAGE_FIXED)
  read = {
    name: config.get(name, default) for name, default in _IMAGE_DEFAULTS.items()
  }
  hf_fields.check_tower(read, "vision_config.")
  patch = read["patch_size"]
  return dict(
    image_size=read["image_size"] // patch * patch,
    stem=((patch, read["hidden_size"]),),
    vit_depth=read["num_hidden_layers"],
    vit_heads=read["num_attention_heads"],
    vit_mlp_width=read["intermediate_size"],
  )


def _text_config(options: Mapping[str, Any], rows: int) -> dict[str, Any]:
  values = {**options, "vocab_size": rows}
  out = {theirs: values[ours] for theirs, ours in _NAMES.items()}
  is_gemma2 = options.get("has_post_norms", False)
  kind = "gemma2" if is_gemma2 else "gemma"
  out |= dict(model_type=kind, **_TEXT_FIXED, **_TOKENS)
  out[_ACTIVATIONS[kind][0]] = "gelu_pytorch_tanh"
  out["rope_parameters"] = {
    "rope_type": "default",
    "rope_theta": _ROPE_THETA,
  }
  query_width = options.get("query_width") or options["head_width"]
  window = options.get("window")
  if is_gemma2:
    depth = options["depth"]
    kinds = [_GLOBAL] * depth if window is None else _alternating(depth)
    return out | dict(
      query_pre_attn_scalar=query_width,
      attn_logit_softcapping=options.get("attention_softcap"),
      final_logit_softcapping=options.get("logits_softcap"),
      layer_types=kinds,
      sliding_window=window or 4096,
    )
  found = {
    n: options.get(n) for n in ("attention_softcap", "logits_softcap", "window")
  }
  found = {name: value for name, value in found.items() if value is not None}
  if query_width != options["head_width"]:
    found["query_width"] = query_width
  if found:
    raise ValueError(
      f"has_post_norms=False with {found}: Gemma 1 has none of these, so this"
      " model has no counterpart in transformers."
    )
  return out


def _image_config(options: Mapping[str, Any]) -> dict[str, Any]:
  ((patch, width),) = options["stem"]
  return dict(
    model_type=_IMAGE_TYPE,
    hidden_size=width,
    intermediate_size=options["vit_mlp_width"],
    num_hidden_layers=options["vit_depth"],
    num_attention_heads=options["vit_heads"],
    image_size=options["image_size"],
    patch_size=patch,
    vision_use_head=False,
    **_IMAGE_FIXED,
  )


def _check_rope(config: Mapping[str, Any]) -> None:
  """transformers 5 has "rope_parameters", 4 had two fields, which overrule."""
  rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
  rope.setdefault("rope_theta", config.get("rope_theta", _ROPE_THETA))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind != "default" or rope["rope_theta"] != _ROPE_THETA:
    raise ValueError(
      f"text_config has rotary embeddings {rope}; paligemma computes"
      f" rope_theta={_ROPE_THETA}, without scaling, only."
    )


def _check(
  config: Mapping[str, Any], where: str, fixed: Mapping[str, Any]
) -> None:
  for name, value in fixed.items():
    # Null is "as usual" for the special tokens of a part.
    if config.get(name, value) not in (value, None):
      raise ValueError(
        f"config.json has {where}{name}={config[name]!r}; paligemma computes"
        f" with {value!r} only."
      )
