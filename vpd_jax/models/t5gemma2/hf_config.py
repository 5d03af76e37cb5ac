"""T5Gemma 2's options to and from the config.json on Hugging Face.

What a config.json may leave out has the default of transformers' own class.
What our model fixes (epsilon, activation, special tokens) is checked, not
read; encoder and decoder may differ in depth only.
"""

import types
from collections.abc import Mapping
from typing import Any

from vpd_jax.models import hf_fields
from vpd_jax.models.t5gemma2.model import BOS_ID, EOS_ID, PAD_ID

# model_type of a config.json -> the part of a T5Gemma 2 that it describes.
MODEL_TYPES: Mapping[str, str] = types.MappingProxyType({"t5gemma2": "model"})

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
# Fields of encoder and decoder: (our option, default there).
_STACK = {
  "hidden_size": ("width", 2304),
  "num_attention_heads": ("heads", 8),
  "num_key_value_heads": ("kv_heads", 4),
  "head_dim": ("head_width", 256),
  "intermediate_size": ("mlp_width", 9216),
  "query_pre_attn_scalar": ("query_width", 256),
  "sliding_window": ("window", 4096),
  "vocab_size": ("vocab_size", 262_208),
}
_DEPTH = 26
_STACK_FIXED = {
  "rms_norm_eps": 1e-6,
  "hidden_activation": "gelu_pytorch_tanh",
  "attention_bias": False,
  # Read there, but not computed with.
  "attn_logit_softcapping": None,
  "pad_token_id": PAD_ID,
  "eos_token_id": EOS_ID,
  "bos_token_id": BOS_ID,
  "tie_word_embeddings": True,
}
_IMAGE = {
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


def options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `model.Model` that a config.json decides.

  Args:
    config: config.json, parsed.

  Raises:
    ValueError: if it is of another model, or says what our model does not
      compute.
  """
  kind = config.get("model_type")
  if kind not in MODEL_TYPES:
    raise ValueError(
      f"config.json has model_type={kind!r}; t5gemma2 reads {[*MODEL_TYPES]}."
    )
  outer = config.get("encoder", {})
  encoder, decoder = outer.get("text_config", {}), config.get("decoder", {})
  _check_fixed(config, "", {"tie_word_embeddings": True})
  read = [_stack(encoder, "encoder.text_config"), _stack(decoder, "decoder")]
  for name, value in read[0].items():
    if read[1][name] != value:
      raise ValueError(
        f"config.json says {name}={value!r} of the encoder and"
        f" {read[1][name]!r} of the decoder; t5gemma2 has one for both."
      )
  depths = [c.get("num_hidden_layers", _DEPTH) for c in (encoder, decoder)]
  for name, depth in zip(("encoder", "decoder"), depths, strict=True):
    hf_fields.check_counts({"num_hidden_layers": depth}, f"{name}: ")
  boi = outer.get("boi_token_index", 255_999)
  eoi = outer.get("eoi_token_index", 256_000)
  return dict(
    **read[0],
    **_image_options(outer.get("vision_config", {})),
    image_tokens=outer.get("mm_tokens_per_image", 256),
    encoder_depth=depths[0],
    decoder_depth=depths[1],
    global_every=_global_every(encoder, decoder, depths),
    logit_softcap=decoder.get("final_logit_softcapping"),
    image_start=(BOS_ID, boi),
    image_end=(eoi,),
    end_of_image_id=eoi,
    # The outer one, which overwrites the encoder's there.
    image_token_id=config.get("image_token_index", 256_001),
  )


def config(options: Mapping[str, Any], part: str, rows: int) -> dict[str, Any]:
  """config.json to be written beside the weights.

  The result names no tokens that surround an image but the last of
  `image_start` and `end_of_image_id`: the tokenizer's processor has the rest.

  Args:
    options: keyword arguments of `model.Model`.
    part: "model".
    rows: of the embedding.
  """
  assert part in MODEL_TYPES.values(), part
  options = dict(options, vocab_size=rows)
  global_rope: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": options.get("rope_base_global", 1e6),
  }
  if options.get("rope_stretch_global", 1.0) != 1.0:
    global_rope |= {
      "rope_type": "linear",
      "factor": options["rope_stretch_global"],
    }
  local_rope = {
    "rope_type": "default",
    "rope_theta": options.get("rope_base_local", 1e4),
  }

  def stack(name: str) -> dict[str, Any]:
    depth = options[f"{name}_depth"]
    every = options.get("global_every", 6)
    return dict(
      {field: options.get(n, d) for field, (n, d) in _STACK.items()},
      num_hidden_layers=depth,
      layer_types=_layer_types(depth, every),
      rope_parameters={_GLOBAL: global_rope, _LOCAL: local_rope},
      **_STACK_FIXED,
    )

  end = options.get("end_of_image_id", 256_000)
  softcap = options.get("logit_softcap")
  return dict(
    architectures=["T5Gemma2ForConditionalGeneration"],
    model_type="t5gemma2",
    is_encoder_decoder=True,
    tie_word_embeddings=True,
    image_token_index=options.get("image_token_id", 256_001),
    eoi_token_index=end,
    encoder=dict(
      model_type="t5gemma2_encoder",
      text_config=stack("encoder") | dict(model_type="t5gemma2_text"),
      vision_config=_image_config(options),
      mm_tokens_per_image=options["image_tokens"],
      boi_token_index=options.get("image_start", (BOS_ID, 255_999))[-1],
      eoi_token_index=end,
      image_token_index=options.get("image_token_id", 256_001),
    ),
    decoder=stack("decoder")
    | dict(model_type="t5gemma2_decoder", final_logit_softcapping=softcap),
  )


def _stack(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Options of encoder or decoder that the other must agree with."""
  _check_fixed(config, f"{where}.", _STACK_FIXED)
  out = {n: config.get(field, d) for field, (n, d) in _STACK.items()}
  counts = {
    field: out[name]
    for field, (name, _) in _STACK.items()
    if name != "query_width"  # A scale, which may be a fraction.
  }
  hf_fields.check_counts(counts, f"{where}.")
  # Files of older versions have the fields of Gemma 3. Where there are both,
  # the older one changes the newer, as in transformers.
  ropes = config.get("rope_parameters") or {}
  local = ropes.get(_LOCAL) or {}
  whole = {**(ropes.get(_GLOBAL) or {}), **(config.get("rope_scaling") or {})}
  if whole.get("rope_type", whole.get("type")) != whole.get(
    "type", whole.get("rope_type")
  ):
    raise ValueError(
      f"config.json has rope_type={whole['rope_type']!r} and"
      f" type={whole['type']!r} for {where}'s {_GLOBAL}; leave one."
    )
  kinds = [r.get("rope_type", r.get("type", "default")) for r in (local, whole)]
  if kinds[0] != "default" or kinds[1] not in ("default", "linear"):
    raise ValueError(
      f"config.json has rope_type={kinds[0]!r} for {where}'s"
      f" {_LOCAL} and {kinds[1]!r} for its {_GLOBAL}; t5gemma2 computes"
      " 'default', and 'linear' for the latter."
    )
  out["rope_base_local"] = float(
    local.get("rope_theta", config.get("rope_local_base_freq", 1e4))
  )
  out["rope_base_global"] = float(
    whole.get("rope_theta", config.get("rope_theta", 1e6))
  )
  out["rope_stretch_global"] = 1.0
  if kinds[1] == "linear":
    factor = whole.get("factor")
    if not hf_fields.is_positive(factor):
      raise ValueError(
        f"config.json has rope_type='linear' with factor={factor!r} for"
        f" {where}'s {_GLOBAL}; expected a number above 0."
      )
    out["rope_stretch_global"] = float(whole["factor"])
  return out


def _global_every(encoder, decoder, depths: list[int]) -> int:
  """The pattern of local and global layers, which both stacks must have."""
  given = []
  for stack, depth in zip((encoder, decoder), depths, strict=True):
    pattern = _layer_types(depth, stack.get("sliding_window_pattern", 6))
    given.append(stack.get("layer_types") or pattern)
  # Six first: of a stack of fewer layers, all local, it is the usual one.
  for every in (6, *range(1, max(depths) + 2)):
    if given == [_layer_types(depth, every) for depth in depths]:
      return every
  raise ValueError(
    "config.json's layer_types are not so that every so many-th layer is"
    f" {_GLOBAL!r} and the others {_LOCAL!r}, in both stacks alike: {given}."
  )


def _layer_types(depth: int, every: int) -> list[str]:
  return [_LOCAL if n % every else _GLOBAL for n in range(1, depth + 1)]


def _image_options(config: Mapping[str, Any]) -> dict[str, Any]:
  kind = config.get("model_type", "siglip_vision_model")
  if kind != "siglip_vision_model":
    raise ValueError(
      f"config.json has encoder.vision_config.model_type={kind!r}; t5gemma2"
      " reads 'siglip_vision_model'."
    )
  _check_fixed(config, "encoder.vision_config.", _IMAGE_FIXED)
  read = {name: config.get(name, default) for name, default in _IMAGE.items()}
  hf_fields.check_tower(read, "encoder.vision_config.")
  patch = read["patch_size"]
  return dict(
    image_size=read["image_size"] // patch * patch,
    stem=((patch, read["hidden_size"]),),
    vit_depth=read["num_hidden_layers"],
    vit_heads=read["num_attention_heads"],
    vit_mlp_width=read["intermediate_size"],
  )


def _image_config(options: Mapping[str, Any]) -> dict[str, Any]:
  ((patch, width),) = options["stem"]
  return dict(
    model_type="siglip_vision_model",
    hidden_size=width,
    intermediate_size=options["vit_mlp_width"],
    num_hidden_layers=options["vit_depth"],
    num_attention_heads=options["vit_heads"],
    image_size=options["image_size"],
    patch_size=patch,
    vision_use_head=False,
    **_IMAGE_FIXED,
  )


def _check_fixed(
  config: Mapping[str, Any], where: str, fixed: Mapping[str, Any]
) -> None:
  for name, value in fixed.items():
    if config.get(name, value) != value:
      raise ValueError(
        f"config.json has {where}{name}={config[name]!r}; t5gemma2 computes"
        f" with {value!r} only."
      )
