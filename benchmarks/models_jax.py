"""The side of models.py that runs ours."""

import importlib
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from flax import nnx
from safetensors import numpy as st

from benchmarks import models_shapes as shapes
from vpd_jax import host, step, trees
from vpd_jax.checkpoint import convert, hf
from vpd_jax.decode import loop
from vpd_jax.losses import plain

host.keep_freed_memory()  # As the entries do.
OPTIONS = json.loads(sys.argv[1])
FOLDER = pathlib.Path(OPTIONS["folder"])
DTYPE = jnp.dtype(OPTIONS["dtype"])
VERSIONS = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
ROUND = {}


def _load(case):
  family = f"vpd_jax.models.{case}"
  model, params, hf_config = (
    importlib.import_module(f"{family}.{name}")
    for name in ("model", "params", "hf_config")
  )
  parts = ("image", "text") if case == "pali" else ("model",)
  options = {"is_scanned": OPTIONS["device"] == "gpu"}
  for part in parts:
    options |= hf_config.options(hf.read_config(FOLDER / part))
  if case == "t5gemma2":
    options |= dict(image_start=(2, shapes.BOI), image_end=(shapes.EOI,))
  vocab = (shapes.T5 if case == "pali" else shapes.GEMMA_TEXT)["vocab_size"]
  options["vocab_size"] = vocab
  graphdef, own = nnx.split(model.Model(**options), nnx.Param)
  own = nnx.to_pure_dict(own)
  named = trees.flatten_with_names(own)
  for part in parts:
    source = hf.scan(FOLDER / part)
    table = params.table(options, part)
    named |= convert.load(convert.ours(source, table, named, part), named)
  if case == "pali":
    kernel = st.load_file(FOLDER / "projection.safetensors")["kernel"]
    named["projection/kernel"] = jnp.asarray(kernel)
  named = {k: jnp.asarray(v) for k, v in named.items()}
  return graphdef, trees.unflatten_like(own, named), vocab


def prepare(case, part):
  """Loads, runs twice, and says what came out."""
  graphdef, params, vocab = _load(case)
  batch = shapes.inputs(vocab, OPTIONS["batch"])
  batch = {k: jax.device_put(v) for k, v in batch.items()}

  if part == "train":
    tx = optax.adamw(1e-5, weight_decay=0.01)

    @jax.jit
    def loss_of(params):
      model = step.merge(graphdef, params)
      tokens = model.encode_image(batch["image"], DTYPE)
      encoded = model.encode(tokens, batch["prompt"])
      logits = model.logits(model.decode(*encoded, batch["target"]))
      weights = jnp.ones(batch["target"].shape)
      nats, examples = plain.per_example_xent(logits, batch["target"], weights)
      return nats / examples

    def update(params, state):
      loss, grads = jax.value_and_grad(loss_of)(params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state, loss

    call = jax.jit(update, donate_argnums=(0, 1))
    carry = [params, jax.jit(tx.init)(params)]

    def run():
      *carry[:], loss = call(*carry)
      return float(loss)
  else:
    if DTYPE != jnp.float32:
      params = jax.tree.map(lambda x: x.astype(DTYPE), params)
    # Once for all batches, as weights are loaded once.
    prepared = loop.prepare(step.merge(graphdef, params))
    graphdef, params = nnx.split(prepared)

    @jax.jit
    def generate(params, image, prompt):
      return loop.generate(
        nnx.merge(graphdef, params),
        image,
        prompt,
        max_new_tokens=shapes.NEW_TOKENS,
        eos_id=-1,
        dtype=DTYPE,
      )

    def run():
      found = generate(params, batch["image"], batch["prompt"])
      return np.asarray(found.tokens).reshape(len(batch["prompt"]), -1).tolist()

  first = run()
  for _ in range(2):
    run()
  ROUND["run"] = run
  return {"result": first, "versions": VERSIONS}


def one_round():
  start = time.perf_counter()
  ROUND["run"]()
  return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
  shapes.serve({"prepare": prepare, "round": one_round})
