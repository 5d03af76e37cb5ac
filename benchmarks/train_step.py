"""Measures the fused training step: speed in ratios, memory; prints a table.

    python benchmarks/train_step.py                    # all, some 20 minutes
    python benchmarks/train_step.py --parts=memory
    python benchmarks/train_step.py --out=benchmarks/results/train_step.json

The model has the proportions of PaLI-3 (ViT-G/14 and a T5 XL, the image tower
two fifths of the parameters): widths a quarter, depths a twelfth, tokens a
quarter of those at 448 or at 812 pixels (812 is PaLI-3's own resolution), of a
vocabulary of 250k as large a share of the work.

"separate" is what the published Distilling Step-by-Step trainer does: a pass
for the label and one for the rationale, each with its target at its own length,
its own encoding of the image, cross-attention's keys and values, and full
logits; their losses are added and differentiated together. Both sides share
model, optimizer and train step. Each repeat runs every program once, one after
the other; a ratio is that of medians, of wall-clock seconds and of CPU seconds,
which other work disturbs less.
"""

import argparse
import datetime
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vpd_jax import host, optim, step  # noqa: E402
from vpd_jax.losses import chunked, fused, plain  # noqa: E402
from vpd_jax.models import attention, lora, output  # noqa: E402
from vpd_jax.models.pali import flops as pali_flops  # noqa: E402
from vpd_jax.models.pali import model as pali  # noqa: E402
from vpd_jax.models.pali import sizes  # noqa: E402

PARTS = ("speed", "memory", "lora", "bound")
# Pixels of the real thing -> patches along a side, a quarter as many in all.
GRIDS = {"448": 16, "812": 29}
PATCH, PROMPT, LABEL, RATIONALE = 14, 16, 4, 64
VOCAB = 5120
OPTIONS: dict[str, Any] = dict(
  stem=((PATCH, 416),),
  vit_depth=4,
  vit_heads=4,
  vit_mlp_width=2048,
  width=512,
  heads=8,
  head_width=64,
  mlp_width=1280,
  encoder_depth=2,
  decoder_depth=2,
  vocab_size=VOCAB,
  is_scanned=False,
)
# Of the head at full size: tokens of 16 examples, width and rows.
HEAD = dict(tokens=4352, width=2048, vocab=250_112)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--px", default="448,812", help="of speed")
  parser.add_argument("--repeats", type=int, default=9, help="of speed")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  unknown = set(args.parts.split(",")) - set(PARTS)
  if unknown:
    parser.error(f"no parts {sorted(unknown)}; there are {PARTS}")
  host.keep_freed_memory()  # As the train entry does.
  rows: list[dict[str, Any]] = []
  for part in args.parts.split(","):
    if part == "speed":
      for px in args.px.split(","):
        rows += speed(px, args.repeats)
    elif part == "memory":
      rows += memory()
    elif part == "lora":
      rows += lora_bytes()
    else:
      rows += bound()
  result = {
    "date": datetime.date.today().isoformat(),
    "command": " ".join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
    "python": platform.python_version(),
    "versions": {
      name: importlib.metadata.version(name)
      for name in ("jax", "jaxlib", "flax", "optax")
    },
    "device": jax.devices()[0].device_kind,
    "cores": os.cpu_count(),
    "load": os.getloadavg(),
    "rows": rows,
  }
  print(json.dumps({k: v for k, v in result.items() if k != "rows"}))
  if args.out:
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def _add(rows: list[dict[str, Any]], **row: Any) -> None:
  rows.append(row)
  print(
    "  ".join(
      f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
      for k, v in row.items()
    ),
    flush=True,
  )


def speed(px: str, repeats: int) -> list[dict[str, Any]]:
  """Fused against separate, and against the sum of its parts."""
  rows: list[dict[str, Any]] = []
  images = 4 if px == "448" else 2
  for case, is_lora, questions, goal in (
    ("lora, frozen tower", True, 1, 1.2),
    ("all trained", False, 1, 1.33),
    ("lora, frozen tower, 4 questions an image", True, 4, 1.4),
  ):
    # Every case finds memory as a new process does.
    gc.collect()
    host.give_back_freed_memory()
    count = images if questions == 1 else 1
    batch = _batch(GRIDS[px], count, questions)
    trainer = _trainer(GRIDS[px], is_lora)
    both, both_flops = _step(trainer, separate, _repeat_image(batch, questions))
    ours, our_flops = _step(trainer, fused.step_by_step, batch)
    apart = functools.partial(fused.step_by_step, prompts_apart=True)
    ours_apart, apart_flops = _step(trainer, apart, batch)
    programs = {"separate": both, "fused": ours, "prompts apart": ours_apart}
    if questions == 1:
      programs |= _parts(trainer, batch)
    seconds, cpu, losses = _time(programs, repeats)
    for name, loss in losses.items():
      np.testing.assert_allclose(
        loss, losses["separate"], rtol=1e-4, err_msg=f"{case}, {name}"
      )
    for name, claim, flops in (
      ("fused", "fused step", our_flops),
      ("prompts apart", "fused step with prompts apart", apart_flops),
    ):
      _add(
        rows,
        claim=f"{claim} against two separate passes",
        case=case,
        px=px,
        examples=count * questions,
        ratio=seconds["separate"] / seconds[name],
        goal=goal,
        ratio_of_cpu=cpu["separate"] / cpu[name],
        ratio_of_flops=both_flops / flops,
        separate_s=seconds["separate"],
        fused_s=seconds[name],
      )
    if questions == 1:
      parts = {k: s for k, s in seconds.items() if k.startswith("part ")}
      _add(
        rows,
        claim="fused step against the sum of its parts",
        case=case,
        px=px,
        ratio=seconds["fused"] / sum(parts.values()),
        ratio_of_cpu=cpu["fused"] / sum(cpu[name] for name in parts),
        goal=1.10,
        **parts,
      )
  return rows


@mock.patch.object(attention, "is_turned", lambda *_: False)
def separate(model, batch, key=None):
  """Two passes; the second is given its image apart, or XLA would merge them.

  Cross-attention has all its keys and values, as in the published trainer's T5.
  """
  del key
  own = {k: x for k, x in batch.items() if not k.startswith("again_")}
  of_label, _ = plain.step_by_step(model, own, rationale_weight=0.0)
  other = {
    f"label_{k}": batch[f"rationale_{k}"]
    for k in ("prompt", "target", "weights")
  } | {"image": batch["again_image"]}
  # A rationale in a label's place; only labels are looked at.
  other |= {k: x for k, x in own.items() if k.startswith("rationale_")}
  of_rationale, _ = plain.step_by_step(model, other, rationale_weight=0.0)
  loss = of_label + of_rationale
  return loss, {"loss": loss}


def _batch(grid: int, images: int, questions: int) -> dict[str, jax.Array]:
  """Random tokens; targets and prompts fill their slots."""
  rng = np.random.default_rng(0)
  side, rows = grid * PATCH, images * questions
  out = {"image": rng.integers(0, 256, (images, side, side, 3), np.uint8)}
  for name, length in (("label", LABEL), ("rationale", RATIONALE)):
    for kind, width in (("prompt", PROMPT), ("target", length)):
      ids = rng.integers(2, VOCAB, (rows, width), np.int32)
      out[f"{name}_{kind}"] = ids
    out[f"{name}_weights"] = np.ones((rows, length), np.float32)
  return jax.tree.map(jnp.asarray, out)


def _repeat_image(batch, questions: int) -> dict[str, jax.Array]:
  """Every question with an image of its own, for each of two passes."""
  image = jnp.repeat(batch["image"], questions, axis=0)
  return batch | {"image": image, "again_image": image + 0}


def _trainer(grid: int, is_lora: bool):
  """(graphdef, optimizer, state)."""
  model = pali.Model(image_size=grid * PATCH, **OPTIONS)
  options: dict[str, Any] = {"total_steps": 1000, "lr": 1e-4}
  if is_lora:
    lora.add(model, **lora.options("vpd_generalist"))
    options["train"] = (lora.UPDATES,)
  made = optim.make(**options)
  graphdef, params = nnx.split(model, nnx.Param)
  trained, frozen = made.partition(nnx.to_pure_dict(params))
  return graphdef, made.tx, step.init_state(trained, made.tx, frozen)


def _step(trainer, loss, batch) -> tuple[Callable[[], Any], float]:
  graphdef, tx, state = trainer
  train_step = functools.partial(
    step.train_step, graphdef=graphdef, tx=tx, loss=loss
  )
  compiled = jax.jit(train_step).lower(state, batch).compile()
  # No block is in a loop, so XLA's count is of all of them.
  flops = (compiled.cost_analysis() or {})["flops"]
  return (lambda: compiled(state, batch)), flops


def _parts(trainer, batch) -> dict[str, Callable[[], Any]]:
  """The fused step's parts, each a program with its own way back."""
  graphdef, tx, state = trainer
  is_frozen = bool(state.frozen)
  # Arguments of every program: as constants, they would be computed with.
  given = (state.frozen, batch)

  def image(params, given):
    frozen, batch = given
    return _merge(graphdef, params, frozen).encode_image(batch["image"])

  def encode(params, given, tokens):
    frozen, batch = given
    prompts = jnp.stack([batch["label_prompt"], batch["rationale_prompt"]], 1)
    return _merge(graphdef, params, frozen).encode(
      jnp.repeat(tokens, 2, axis=0), prompts.reshape(-1, PROMPT)
    )

  def decode(params, given, encoded, mask):
    frozen, batch = given
    own = _merge(graphdef, params, frozen)
    return [
      own.decode(encoded[i::2], mask[i::2], batch[f"{name}_target"])
      for i, name in enumerate(("label", "rationale"))
    ]

  def loss(params, given, hidden):
    frozen, batch = given
    targets = [batch["label_target"], batch["rationale_target"]]
    nats, _ = chunked.token_nats(
      _merge(graphdef, params, frozen).output(jnp.concatenate(hidden, 1)),
      jnp.concatenate(targets, 1),
    )
    return jnp.mean(nats)

  def update(params, state, grads):
    updates, opt_state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), opt_state

  params = state.params
  tokens = jax.jit(image)(params, given)
  encoded, mask = jax.jit(encode)(params, given, tokens)
  hidden = jax.jit(decode)(params, given, encoded, mask)

  def first(params, given, tokens):
    return encode(params, given, tokens)[0]

  of_params = () if is_frozen else (0,)
  through = () if is_frozen else (2,)
  return {
    "part image": _there_and_back(image, of_params, params, given),
    "part encoder": _there_and_back(
      first, (0, *through), params, given, tokens
    ),
    "part decoders": _there_and_back(
      decode, (0, 2), params, given, encoded, mask
    ),
    "part loss": _there_and_back(loss, (*of_params, 2), params, given, hidden),
    "part optimizer": _there_and_back(
      update, (), params, state.opt_state, params
    ),
  }


def _merge(graphdef, params, frozen):
  return step.merge(graphdef, step.join(params, frozen))


def _there_and_back(function, wrt, *args) -> Callable[[], Any]:
  """A program of a function and its gradients by arguments `wrt`."""

  def both(*args):
    def of(*some):
      full = list(args)
      for place, value in zip(wrt, some, strict=True):
        full[place] = value
      return function(*full)

    if not wrt:
      return of()
    result, back = jax.vjp(of, *(args[i] for i in wrt))
    return result, back(jax.tree.map(jnp.ones_like, result))

  compiled = jax.jit(both).lower(*args).compile()
  return lambda: compiled(*args)


def _time(
  programs: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
  """Median seconds of each, all run in turn; the same of CPU; steps' losses."""
  losses = {}
  for name, run in programs.items():
    result = jax.block_until_ready(run())
    if not name.startswith("part "):
      losses[name] = float(result[1]["loss"])
  walls: dict[str, list[float]] = {name: [] for name in programs}
  cpus: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(repeats):
    for name, run in programs.items():
      start, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(run())
      walls[name].append(time.perf_counter() - start)
      cpus[name].append(time.process_time() - cpu)
  median = statistics.median
  return (
    {name: median(s) for name, s in walls.items()},
    {name: median(s) for name, s in cpus.items()},
    losses,
  )


def memory() -> list[dict[str, Any]]:
  """Room that the loss needs beside its inputs and gradients: no arrays."""
  rows: list[dict[str, Any]] = []
  tokens, width, vocab = HEAD["tokens"], HEAD["width"], HEAD["vocab"]
  shapes = [
    jax.ShapeDtypeStruct(shape, dtype)
    for shape, dtype in (
      ((1, tokens, width), jnp.float32),
      ((width, vocab), jnp.float32),
      ((1, tokens), jnp.int32),
    )
  ]
  for case, wrt in (("matrix trained", (0, 1)), ("matrix frozen", (0,))):

    def spare(token_nats, wrt=wrt):
      def of(hidden, matrix, targets):
        made = output.Output(hidden, matrix, is_rows=False)
        return jnp.mean(token_nats(made, targets)[0])

      compiled: Any = jax.jit(jax.grad(of, wrt)).lower(*shapes).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    full = spare(lambda made, t: plain.token_nats(made.logits(), t))
    ours = spare(chunked.token_nats)
    _add(
      rows,
      claim="memory of the loss against full logits",
      case=case,
      **HEAD,
      ratio=full / ours,
      goal=20,
      full_mb=full / 1e6,
      chunked_mb=ours / 1e6,
    )
  return rows


def lora_bytes() -> list[dict[str, Any]]:
  """Gradients and optimizer state of low-rank updates, by shapes alone."""
  rows: list[dict[str, Any]] = []
  for preset in ("vpd_generalist", "vpd_specialist_pali3"):

    def make(preset=preset):
      model = pali.Model(vocab_size=HEAD["vocab"], **sizes.get("pali3_5b"))
      return lora.add(model, **lora.options(preset))

    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))
    for frozen_dtype, options in (
      ("float32", {}),
      ("bfloat16", {}),
      ("bfloat16", {"moments_dtype": "bfloat16"}),
      ("bfloat16", {"name": "adafactor", "min_factored": 8}),
      ("bfloat16", {"name": "lion", "momentum_dtype": "bfloat16"}),
    ):
      made = optim.make(
        total_steps=1000,
        lr=1e-4,
        train=(lora.UPDATES,),
        frozen_dtype=frozen_dtype,
        **options,
      )
      trained, frozen = made.partition(params)
      opt_state = jax.eval_shape(made.tx.init, trained)
      held = _nbytes(trained) + _nbytes(opt_state)
      _add(
        rows,
        claim="gradients and optimizer state against frozen weights",
        case=f"{preset}, frozen in {frozen_dtype}, {options or 'adamw'}",
        percent=100 * held / _nbytes(frozen),
        goal=1,
        gradients_mb=_nbytes(trained) / 1e6,
        optimizer_mb=_nbytes(opt_state) / 1e6,
        frozen_mb=_nbytes(frozen) / 1e6,
      )
  return rows


def bound() -> list[dict[str, Any]]:
  """What PaLI-3's own shape would gain, were every FLOP as fast as another.

  A matrix counts once forward, once for the gradient of its input, once for its
  own; in two passes all of it twice, once for each target.
  """
  rows: list[dict[str, Any]] = []
  options = {**sizes.get("pali3_5b"), "vocab_size": HEAD["vocab"]}
  for px in GRIDS:
    label, rationale = (
      pali_flops.forward(options, prompt=64, target=target, image_px=int(px))
      for target in (16, 256)
    )
    image = label["image"].total
    text = sum(
      count.total
      for target in (label, rationale)
      for part, count in target.items()
      if part != "image"
    )
    for case, of_image, of_text, questions in (
      ("lora, frozen tower", 1, 2, 1),
      ("all trained", 3, 3, 1),
      ("lora, frozen tower, 4 questions an image", 1, 2, 4),
    ):
      rest = of_text * text * questions
      ratio = (2 * questions * of_image * image + rest) / (
        of_image * image + rest
      )
      _add(
        rows,
        claim="FLOPs of two passes against fused, pali3_5b",
        case=case,
        px=px,
        ratio=ratio,
      )
  return rows


def _nbytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


if __name__ == "__main__":
  main()
