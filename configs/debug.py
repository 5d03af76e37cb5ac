r"""The smallest run: same code as the large ones, a few seconds on a laptop.

    python -m data_gen.run --config=configs/data_gen/world.py:size=tiny \
        --workdir=runs/debug/data
    python -m vpd_jax.train --config=configs/debug.py --workdir=runs/debug/run

Expected: the loss falls from about 13 to below 10; nothing is learnt.
"""

import ml_collections

from vpd_jax import config_arg, config_sections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is like "steps=40,lora=true"."""
  options = config_arg.parse(arg, seed=0, steps=20, lora=False)
  c = ml_collections.ConfigDict(config_sections.of_run())
  c.arm = "debug"
  c.seed = options.seed
  c.total_steps = options.steps
  c.log_every_steps = 5
  c.data_dir = "runs/debug/data/examples"
  c.init = ""
  c.input = config_sections.inputs(
    data=dict(world=dict(dir=c.get_ref("data_dir"), split="train", weight=1.0)),
    batch_size=8,
    image_px=48,
    lengths=dict(prompt=40, label=3, rationale=48),
    vocab="world",
  )
  patterns = ("(encoder|decoder)/blocks/",)
  updates = dict(patterns=patterns, rank=2, alpha=2.0, dropout=0.1)
  c.model = config_sections.model(
    name="pali", size="debug", lora=updates if options.lora else None
  )
  c.loss = config_sections.loss(name="fused", rationale_weight=1.0)
  c.optim = config_sections.optimizer(lr=1e-2, warmup_steps=2)
  c.sharding = config_sections.sharding("data_parallel", data=-1)
  c.evaluators = dict(
    validation=dict(
      name="vqa",
      dir=c.get_ref("data_dir"),
      split="validation",
      every_steps=options.steps // 2,
      modes=("direct", "rationale"),
      batch_size=8,
    )
  )
  c.select = "validation/direct_accuracy"
  c.checkpoint = dict(every_steps=5, keep=2)
  return c
