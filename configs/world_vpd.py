r"""Distils program rationales into the embedded world's student.

    python -m vpd_jax.train --config=configs/world_vpd.py --workdir=runs/vpd
    python -m vpd_jax.train --config=configs/world_vpd.py:arm=twin \
        --workdir=runs/twin
    python -m vpd_jax.evaluate --config=configs/world_vpd.py --workdir=runs/vpd

Machine: one CPU core; benchmarks/quickstart.md has the times. Data: what
`python -m data_gen.run --config=configs/data_gen/world.py` wrote.

Arms, all from one base, one data set, one order, one number of steps:
  vpd                 L = L_label + L_rationale
  twin                labels only: the Instruct twin of the paper
  twin_equal_compute  labels only, for as many FLOPs as vpd takes
  replay              labels, and the base's own tasks at equal weight
Other data (unfiltered, clean, k1, pseudo, mismatched) is another
--config.data_dir; see configs/data_gen/world.py.

Source of the recipe: Hu et al., arXiv:2312.03052, Eq. 1 and appendix B.3 for
the loss, prompts and betas; sizes, steps and learning rate were chosen for a
CPU, see docs/decisions/0004-quickstart-recipe.md.
"""

import ml_collections

from vpd_jax import config_arg, config_sections

ARMS = ("vpd", "twin", "twin_equal_compute", "replay")
STEPS = 2400
# Train FLOPs of one vpd step over those of one twin step, by XLA's count; a
# test compiles both and compares.
EQUAL_COMPUTE = 2.46


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is like "arm=twin,seed=1"."""
  options = config_arg.parse(arg, arm=ARMS, seed=0, steps=STEPS)
  is_label_only = options.arm in ("twin", "twin_equal_compute", "replay")
  c = ml_collections.ConfigDict(config_sections.of_run())
  c.arm = options.arm
  c.seed = options.seed
  c.total_steps = options.steps
  if options.arm == "twin_equal_compute":
    c.total_steps = round(options.steps * EQUAL_COMPUTE)
  c.log_every_steps = 50
  c.data_dir = "runs/quickstart/world/examples"
  c.init = "weights/world_base.npz"

  c.input = config_sections.inputs(
    data=dict(world=dict(dir=c.get_ref("data_dir"), split="train", weight=1.0)),
    batch_size=32,
    image_px=48,
    lengths=dict(prompt=28, label=3, rationale=28),
    vocab="world",
    cache=True,
    # Of the programs' rationales none is longer; of the true ones, 1 in 130:
    # such a record stays for its label.
    drop_long=True,
  )
  if options.arm == "replay":
    base = dict(
      dir="runs/quickstart/base/examples",
      split="train",
      weight=1.0,
      label_suffix="",
    )
    replay = dict(data=dict(base=base), batch_size=64, lengths=dict(label=32))
    c.update(input=replay)  # Goes into nested sections; the rest stays.
  c.model = config_sections.model(name="pali", size="world")
  c.loss = config_sections.loss(
    name="fused", rationale_weight=0.0 if is_label_only else 1.0
  )
  c.optim = config_sections.optimizer(
    lr=8e-4,
    warmup_steps=min(100, c.total_steps // 10),
    b1=0.9,
    b2=0.98,
    weight_decay=0.02,
    clip_norm=1.0,
  )
  c.sharding = config_sections.sharding("data_parallel", data=-1)

  def vqa(split, **more):
    return dict(name="vqa", dir=c.get_ref("data_dir"), split=split, **more)

  modes = ("direct",) if is_label_only else ("direct", "rationale")
  c.evaluators = dict(
    validation=vqa("validation", every_steps=max(1, c.total_steps // 8)),
    test_iid=vqa("test_iid", modes=modes),
    test_phrase=vqa("test_phrase", modes=modes),
    test_relation=vqa("test_relation", modes=modes),
  )
  c.select = "validation/direct_accuracy"
  c.checkpoint = dict(every_steps=max(1, c.total_steps // 8), keep=2)
  return c
