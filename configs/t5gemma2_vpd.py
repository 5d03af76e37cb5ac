r"""VPD's generalist recipe on T5Gemma 2, whose weights are public.

    python -m vpd_jax.convert --from=hf:T5GEMMA2_DIR --to=weights/t5gemma2
    python -m vpd_jax.train --config=configs/t5gemma2_vpd.py \
        --workdir=runs/t5gemma2 --config.data_dir=DATA \
        --config.input.vocab=hf:T5GEMMA2_DIR

Machine: one GPU or TPU of 24 GB for the 270M-270M, which is the default; of 80
GB for the 1B-1B (:size=1b_1b), with optim.accumulate; a host of 8 for the
4B-4B. Data: TFRecords as data_gen writes them.

This has not been run: no such data are here. By arithmetic (`logs.mfu`; padded
lengths 64, 16 and 256) an example takes 6.1, 8.5 or 18.6 TFLOP at the three
sizes, of which the image tower, at 896 px, is 5.5: 8000 steps of 128 are 6.2e18
model FLOPs at the first. At 40 % of an H200's 989 TFLOP/s that is 4.4 hours.

Source of the recipe: Hu et al., arXiv:2312.03052, appendix B.3; see
configs/pali3_vpd.py.
"""

import ml_collections

from vpd_jax import config_arg, config_sections

STEPS = 8000
SIZES = ("270m_270m", "1b_1b", "4b_4b")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is like "size=1b_1b,seed=1"."""
  options = config_arg.parse(arg, size=SIZES, seed=0, steps=STEPS)
  c = ml_collections.ConfigDict(config_sections.of_run())
  c.arm = f"t5gemma2_{options.size}_vpd"
  c.seed = options.seed
  c.total_steps = options.steps
  c.log_every_steps = 20
  c.data_dir = "runs/t5gemma2/data/examples"
  c.init = "weights/t5gemma2"
  c.input = config_sections.inputs(
    data=dict(vpd=dict(dir=c.get_ref("data_dir"), split="train", weight=1.0)),
    batch_size=128,
    image_px=896,
    lengths=dict(prompt=64, label=16, rationale=256),
    vocab="hf:weights/t5gemma2",
    drop_long=True,
    num_workers=8,
  )
  c.model = config_sections.model(
    name="t5gemma2",
    size=options.size,
    lora="vpd_generalist",
    remat="full",
  )
  c.loss = config_sections.loss(
    name="fused", rationale_weight=1.0, dtype="bfloat16"
  )
  c.optim = config_sections.optimizer(
    lr=1e-4,
    warmup_steps=c.total_steps // 100,
    b1=0.9,
    b2=0.98,
    frozen_dtype="bfloat16",
    # A 16th of the batch at a time: 8 images of 4096 patches.
    accumulate=16,
  )
  c.sharding = config_sections.sharding("fsdp", fsdp=-1)
  c.evaluators = dict(
    validation=dict(
      name="vqa",
      dir=c.get_ref("data_dir"),
      split="validation",
      every_steps=max(1, c.total_steps // 8),
      batch_size=64,
    )
  )
  c.select = "validation/direct_accuracy"
  c.checkpoint = dict(every_steps=max(1, c.total_steps // 40), keep=2)
  return c
