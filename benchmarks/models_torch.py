"""The side of models.py that runs transformers."""

import json
import pathlib
import sys
import time

import numpy as np
import torch
import transformers
from safetensors import numpy as st

from benchmarks import models_shapes as shapes

OPTIONS = json.loads(sys.argv[1])
FOLDER = pathlib.Path(OPTIONS["folder"])
DEVICE = {"cpu": "cpu", "gpu": "cuda"}[OPTIONS["device"]]
DTYPE = getattr(torch, OPTIONS["dtype"])
VERSIONS = {
  "torch": torch.__version__,
  "transformers": transformers.__version__,
}


class Pali(torch.nn.Module):
  """SigLIP, a projection, T5: transformers' parts under one roof."""

  def __init__(self, tower, t5):
    super().__init__()
    self.tower, self.t5 = tower, t5
    kernel = st.load_file(FOLDER / "projection.safetensors")["kernel"]
    self.projection = torch.nn.Parameter(torch.tensor(kernel).to(DEVICE, DTYPE))

  def embed(self, pixels, prompt):
    tokens = self.tower(pixels).last_hidden_state @ self.projection
    return torch.cat([tokens, self.t5.get_input_embeddings()(prompt)], 1)

  def forward(self, pixels, prompt, target):
    embeds = self.embed(pixels, prompt)
    return self.t5(inputs_embeds=embeds, labels=target).loss

  def generate(self, pixels, prompt, **options):
    return self.t5.generate(inputs_embeds=self.embed(pixels, prompt), **options)


class T5Gemma2(torch.nn.Module):
  """The reference, given its prompt with the image's places."""

  def __init__(self, model):
    super().__init__()
    self.model = model

  def forward(self, pixels, prompt, target):
    return self.model(input_ids=prompt, pixel_values=pixels, labels=target).loss

  def generate(self, pixels, prompt, **options):
    return self.model.generate(input_ids=prompt, pixel_values=pixels, **options)


def make(case):
  """Writes folders of random weights."""
  if case == "pali":
    config = transformers.T5Config(**shapes.T5)
    named = _shapes(transformers.T5ForConditionalGeneration(config))
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
      named.pop(name, None)
    named["lm_head.weight"] = named["shared.weight"]
    as_json = config.to_dict() | {"tie_word_embeddings": False}
    as_json.pop("scale_decoder_outputs", None)
    _write("text", as_json, named)
    config = transformers.SiglipVisionConfig(**shapes.SIGLIP)
    tower = transformers.SiglipVisionModel(config)
    _write("image", config.to_dict(), _shapes(tower))
    kernel = _draw((shapes.SIGLIP["hidden_size"], shapes.T5["d_model"]))
    st.save_file({"kernel": kernel}, FOLDER / "projection.safetensors")
  else:
    config = _t5gemma2_config()
    model = transformers.T5Gemma2ForConditionalGeneration(config)
    model = model.to(torch.float32)
    rng = np.random.default_rng(0)
    with torch.no_grad():
      for parameter in model.parameters():
        draw = _draw(tuple(parameter.shape), rng, transposed=True)
        parameter.copy_(torch.tensor(draw))
    model.save_pretrained(FOLDER / "model")
  return VERSIONS


def _t5gemma2_config():
  encoder = dict(
    text_config=shapes.GEMMA_TEXT,
    vision_config=shapes.SIGLIP | dict(model_type="siglip_vision_model"),
    mm_tokens_per_image=shapes.IMAGE_TOKENS,
    boi_token_index=shapes.BOI,
    eoi_token_index=shapes.EOI,
    image_token_index=shapes.IMAGE_TOKEN,
    vocab_size=shapes.GEMMA_TEXT["vocab_size"],
  )
  return transformers.T5Gemma2Config(
    encoder=encoder,
    decoder=dict(shapes.GEMMA_TEXT),
    image_token_index=shapes.IMAGE_TOKEN,
    dropout_rate=0.0,
    classifier_dropout_rate=0.0,
    attention_dropout=0.0,
  )


def _shapes(model):
  return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def _draw(shape, rng=None, transposed=False):
  rng = rng or np.random.default_rng(len(shape))
  if len(shape) == 1:
    return (0.02 * rng.standard_normal(shape) + 0.5).astype(np.float32)
  inner = np.prod(shape[1:]) if transposed else shape[0]
  scale = 0.5 / np.sqrt(inner)
  return (scale * rng.standard_normal(shape)).astype(np.float32)


def _write(name, config, named):
  folder = FOLDER / name
  folder.mkdir()
  rng = np.random.default_rng(0)
  drawn = {n: _draw(s, rng, transposed=True) for n, s in sorted(named.items())}
  st.save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))


def _load(case):
  attention = OPTIONS["setting"].split("+")[0]
  options = dict(attn_implementation=attention, dtype=DTYPE)
  if case == "pali":
    tower = transformers.SiglipVisionModel.from_pretrained(
      FOLDER / "image", **options
    )
    t5 = transformers.T5ForConditionalGeneration.from_pretrained(
      FOLDER / "text", **options
    )
    return Pali(tower.to(DEVICE), t5.to(DEVICE)), shapes.T5["vocab_size"]
  model = transformers.T5Gemma2ForConditionalGeneration.from_pretrained(
    FOLDER / "model", **options
  )
  model.generation_config.eos_token_id = None
  return T5Gemma2(model.to(DEVICE)), shapes.GEMMA_TEXT["vocab_size"]


ROUND = {}


def prepare(case, part):
  """Loads, runs twice, and says what came out."""
  torch.set_num_threads(OPTIONS["threads"])
  model, vocab = _load(case)
  arrays = shapes.inputs(vocab, OPTIONS["batch"])
  pixels = torch.tensor(arrays["image"]).permute(0, 3, 1, 2)
  pixels = (pixels.to(DEVICE).float() / 127.5 - 1).to(DTYPE)
  prompt = torch.tensor(arrays["prompt"]).long()
  if case == "t5gemma2":
    row = [2, shapes.BOI, *[shapes.IMAGE_TOKEN] * shapes.IMAGE_TOKENS]
    row = torch.tensor([*row, shapes.EOI]).repeat(len(prompt), 1)
    prompt = torch.cat([row, prompt], 1)
  prompt = prompt.to(DEVICE)
  target = torch.tensor(arrays["target"]).long().to(DEVICE)
  is_compiled = OPTIONS["setting"].endswith("+compile")

  if part == "train":
    model.train()
    call = torch.compile(model) if is_compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def run():
      optimizer.zero_grad(set_to_none=True)
      loss = call(pixels, prompt, target)
      loss.backward()
      optimizer.step()
      return loss.item()
  else:
    model.eval()
    options = dict(
      max_new_tokens=shapes.NEW_TOKENS,
      min_new_tokens=shapes.NEW_TOKENS,
      do_sample=False,
      num_beams=1,
    )
    if is_compiled:  # What transformers itself compiles: one step.
      options["cache_implementation"] = "static"
      options["disable_compile"] = False

    def run():
      with torch.inference_mode():
        out = model.generate(pixels, prompt, **options)
      return out[:, 1:].tolist()

  first = run()
  for _ in range(2):
    run()
  ROUND["run"] = run
  return {"result": first, "versions": VERSIONS}


def one_round():
  if DEVICE == "cuda":
    torch.cuda.synchronize()
  start = time.perf_counter()
  ROUND["run"]()
  return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
  shapes.serve({"make": make, "prepare": prepare, "round": one_round})
