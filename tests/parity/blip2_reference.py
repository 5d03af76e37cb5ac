"""Tiny BLIP-2s with random weights, and ours of them. Needs torch."""

import numpy as np
import torch
import transformers

from tests.parity import pali_reference, references
from vpd_jax.checkpoint import hf
from vpd_jax.input import preprocess
from vpd_jax.models.blip2 import hf_config, model, params, retrieval

IMAGE_PX, QUERIES, VOCAB, IMAGE_TOKEN = 42, 5, 96, 95
TIED = tuple(f"language_model.{name}" for name in pali_reference.TIED)
# Which MLPs a file's T5 has: LAVIS trained with the exact GELU.
GELUS = {"BLIP-2 Flan-T5": "gelu", "BLIP-2, tanh GELU": "gelu_new"}
HEAD_WIDTH, WIDTH = 8, 24


def write_generation(folder, family, seed=0):
  """A folder of a tiny BLIP-2 with a T5; the loaded model."""
  t5 = transformers.T5Config(
    vocab_size=VOCAB,
    d_model=WIDTH,
    d_kv=HEAD_WIDTH,
    d_ff=48,
    # generate() makes its cache as deep as the encoder is.
    num_layers=3,
    num_decoder_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    decoder_start_token_id=0,
    dropout_rate=0.0,
  )
  config = _config(
    text_config=t5.to_dict(),
    qformer_config=_qformer(has_text=False),
    image_token_index=IMAGE_TOKEN,
  )
  cls = transformers.Blip2ForConditionalGeneration
  shapes = references.shapes(cls(config))
  for copy in TIED:
    shapes.pop(copy, None)
  shapes["language_model.lm_head.weight"] = (VOCAB, WIDTH)
  # As the files on the hub, which transformers 4 wrote.
  as_json = config.to_dict() | {"architectures": [cls.__name__]}
  as_json["text_config"] |= {
    "tie_word_embeddings": False,
    "dense_act_fn": GELUS[family],
  }
  as_json["text_config"].pop("scale_decoder_outputs", None)
  references.write(folder, as_json, shapes, _draw, seed)
  loaded = references.load(cls, folder, TIED)
  used = type(
    loaded.language_model.encoder.block[0].layer[1].DenseReluDense.act
  )
  exact = used is transformers.activations.GELUActivation
  assert exact == (GELUS[family] == "gelu"), used
  return loaded


def write_retrieval(folder, image_token_index=None, seed=0):
  """A folder of a tiny BLIP-2 with ITC and ITM heads; the loaded model."""
  config = _config(
    qformer_config=_qformer(has_text=True),
    image_text_hidden_size=12,
    image_token_index=image_token_index,
  )
  cls = transformers.Blip2ForImageTextRetrieval
  as_json = config.to_dict() | {"architectures": [cls.__name__]}
  references.write(folder, as_json, references.shapes(cls(config)), _draw, seed)
  return references.load(cls, folder)


def ours(folder, part="model", **changes):
  """Our model of a folder.

  Returns:
    (graphdef, name -> array, keyword arguments of the model).
  """
  config = hf.read_config(folder)
  if part == "retrieval":
    cls, options = retrieval.Retrieval, hf_config.retrieval_options(config)
  else:
    cls, options = model.Model, hf_config.options(config)
  options |= changes
  sources = [(folder, params.table(options, part))]
  return *references.ours(cls, options, sources), options


def pixels(images):
  """uint8[B, height, width, 3] as a BLIP processor's tensor."""
  blip2 = preprocess.FAMILIES["blip2"]
  scaled = np.asarray(images, np.float32) / 255
  scaled = (scaled - np.float32(blip2.mean)) / np.float32(blip2.std)
  return torch.tensor(scaled).permute(0, 3, 1, 2)


def generation_inputs(images, prompt):
  """Placeholders of image tokens in front of a prompt; what a model takes."""
  rows = len(prompt)
  holders = torch.full((rows, QUERIES), IMAGE_TOKEN)
  prompt = torch.tensor(prompt).long()
  mask = torch.cat([torch.ones_like(holders), (prompt != 0).long()], 1)
  return dict(
    pixel_values=pixels(images),
    input_ids=torch.cat([holders, prompt], 1),
    attention_mask=mask,
  )


def retrieval_inputs(images, text, image_token_index=None):
  """As a processor makes them: with placeholders if their token is set."""
  ids = torch.tensor(text).long()
  mask = (ids != 0).long()
  if image_token_index is not None:
    holders = torch.full((len(ids), QUERIES), image_token_index)
    ids = torch.cat([holders, ids], 1)
    mask = torch.cat([torch.ones_like(holders), mask], 1)
  return dict(pixel_values=pixels(images), input_ids=ids, attention_mask=mask)


def bert(named, depth):
  """A causal BertLMHeadModel with the text side of our retrieval model."""
  embedding = {"word": "words/table", "position": "positions"}
  state = {
    f"bert.embeddings.{theirs}_embeddings.weight": named[f"embedding/{name}"]
    for theirs, name in embedding.items()
  }
  rows, width = named["embedding/words/table"].shape
  state["bert.embeddings.token_type_embeddings.weight"] = np.zeros((2, width))
  state["cls.predictions.bias"] = named["lm_head/bias"]

  def put(theirs, ours, layer=None):
    for name, foreign in {
      "kernel": "weight",
      "scale": "weight",
      "bias": "bias",
    }.items():
      array = named.get(f"{ours}/{name}")
      if array is not None:
        array = np.asarray(array if layer is None else array[layer])
        state[f"{theirs}.{foreign}"] = array.T if name == "kernel" else array

  put("bert.embeddings.LayerNorm", "qformer/norm")
  put("cls.predictions.transform.dense", "lm_head/transform")
  put("cls.predictions.transform.LayerNorm", "lm_head/norm")
  for layer in range(depth):
    ours = f"qformer/pairs/{('first', 'second')[layer % 2]}"
    theirs = f"bert.encoder.layer.{layer}"
    for name, foreign in {
      "attention/query": "attention.self.query",
      "attention/key": "attention.self.key",
      "attention/value": "attention.self.value",
      "attention/out": "attention.output.dense",
      "norm_attention": "attention.output.LayerNorm",
      "mlp_text/up": "intermediate.dense",
      "mlp_text/down": "output.dense",
      "norm_mlp_text": "output.LayerNorm",
    }.items():
      put(f"{theirs}.{foreign}", f"{ours}/{name}", layer // 2)
  made = transformers.BertLMHeadModel(
    transformers.BertConfig(
      vocab_size=rows,
      hidden_size=width,
      num_hidden_layers=depth,
      num_attention_heads=4,
      intermediate_size=48,
      max_position_embeddings=len(named["embedding/positions"]),
      is_decoder=True,
      layer_norm_eps=1e-12,
    )
  ).eval()
  tensors = {k: torch.tensor(np.array(v)).float() for k, v in state.items()}
  found = made.load_state_dict(tensors, strict=False)
  assert not found.unexpected_keys, found
  tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
  assert {*found.missing_keys} <= tied, found
  return made


def cache(prefix):
  """Our queries' keys and values, a BERT's cache."""
  made = transformers.DynamicCache()
  depth = 2 * len(prefix[0][0])
  for layer in range(depth):
    keys, values = (
      torch.tensor(np.asarray(x[layer // 2])).transpose(1, 2)
      for x in prefix[layer % 2]
    )
    made.update(keys, values, layer)
  return made


def _config(**options):
  vision = dict(
    hidden_size=40,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=IMAGE_PX,
    patch_size=14,
  )
  return transformers.Blip2Config(
    vision_config=vision, num_query_tokens=QUERIES, **options
  )


def _qformer(has_text):
  return dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    use_qformer_text_input=has_text,
  )


def _draw(name, shape, rng):
  """Queries start at 0 there, the image tower next to it."""
  is_scale = "norm" in name.lower() and name.endswith("weight")
  scale = None
  if name.endswith(("query_tokens", "class_embedding", "shared.weight")):
    scale = 1.0
  elif name.endswith(".q.weight"):  # T5 does not divide its scores.
    scale = (HEAD_WIDTH * WIDTH) ** -0.5
  elif name.endswith("position_embeddings.weight") or "bias" in name:
    # As small as words, which a tied head wants to be; and what all tokens
    # share does not drown how they differ.
    scale = 0.2
  return references.draw(name, shape, rng, is_scale, scale)
