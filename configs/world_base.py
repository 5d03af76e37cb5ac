r"""Tunes the base model of the embedded world: captioning, finding, naming.

    python launch/make_base.py --workdir=runs/base --out=weights/world_base.npz

runs both phases: captions alone until the image is read, then the mixture.
One CPU core, about a quarter of an hour. Expected at the end, on held-out
images: 95 % of phrases found with all their boxes exact. A base that can find
things is what lets a student learn from rationales: docs/decisions/0004.

PaLI's own pretraining is such a mixture (Chen et al., arXiv:2209.06794,
section 3.3), of which this is the embedded world's counterpart.
"""

import ml_collections

from vpd_jax import config_arg, config_sections

STEPS = {"mixture": 2400, "caption": 800}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is like "phase=caption,seed=1"."""
  options = config_arg.parse(arg, phase=tuple(STEPS), seed=0, steps=0)
  is_first = options.phase == "caption"
  c = ml_collections.ConfigDict(config_sections.of_run())
  c.arm = f"base_{options.phase}"
  c.seed = options.seed
  c.total_steps = options.steps or STEPS[options.phase]
  c.log_every_steps = 50
  c.data_dir = f"runs/base/data_{options.phase}/examples"
  c.init = "" if is_first else "runs/base/caption/params.npz"
  c.input = config_sections.inputs(
    data=dict(world=dict(dir=c.get_ref("data_dir"), split="train", weight=1.0)),
    batch_size=64,
    image_px=48,
    lengths=dict(prompt=14, label=44 if is_first else 32, rationale=1),
    vocab="world",
    cache=True,
    label_suffix="",
    rationale_suffix="",
  )
  c.model = config_sections.model(name="pali", size="world")
  c.loss = config_sections.loss(name="fused", rationale_weight=0.0)
  c.optim = config_sections.optimizer(
    lr=1e-3,
    warmup_steps=min(100, c.total_steps // 10),
    final_lr_share=0.5 if is_first else 0.05,
    b1=0.9,
    b2=0.98,
    weight_decay=0.02,
    clip_norm=1.0,
  )
  c.sharding = config_sections.sharding("data_parallel", data=-1)
  c.evaluators = dict(
    validation=dict(
      name="vqa",
      dir=c.get_ref("data_dir"),
      split="validation",
      every_steps=max(1, c.total_steps // 5),
      label_suffix="",
      rationale_suffix="",
    )
  )
  c.select = "validation/direct_accuracy"
  c.checkpoint = dict(every_steps=max(1, c.total_steps // 10), keep=2)
  return c
