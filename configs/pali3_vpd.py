r"""VPD's generalist recipe at the shape of PaLI-3: low-rank updates, 448 px.

    python -m vpd_jax.train --config=configs/pali3_vpd.py --workdir=runs/pali3 \
        --config.data_dir=DATA --config.init=DIR \
        --config.input.vocab=sentencepiece:DIR/spiece.model

Machine: one host of 8 H200, or of other devices that hold 5B parameters in
bf16 together, 10 GB, beside their activations. The same command on every host
of several; a batch that does not fit: optim.accumulate=2.

Data: TFRecords as data_gen writes them; with :data=mixture those of VPD's six
sets, in DATA/vqav2 and so on, see MIXTURE. Weights: PaLI-3's are not public. DIR
is a folder of vpd_jax.convert with this shape, or --config.model.size is
another one, such as so400m_flan_t5_xl.

This has not been run: no such data are here. By arithmetic (`logs.mfu`; padded
lengths 64, 16 and 256) an example takes 18.6 TFLOP, and 25.7 with what is
recomputed; 8000 steps of 128 are 1.9e19 model FLOPs. At 45 % of 8 H200's 989
TFLOP/s that is 1.5 hours. VPD reports about 20 hours on 32 TPU v4, at a size
of image that it does not say.

Source: Hu et al., arXiv:2312.03052, appendix B.3: rank 8 on encoder and
decoder, AdamW with 0.9 and 0.98, cosine with 1 % of warm-up to 1e-4, 8000
steps of 128, bfloat16. Not in the paper, and ours: lengths, no decay, clipping
at 1.
"""

import ml_collections

from vpd_jax import config_arg, config_sections

STEPS = 8000
# Thousands of questions of each set in VPD's mixture, table 4; how often it
# draws from each is not said, so here as if they were one. Of VQAv2 and OCR-VQA
# the sum is the paper's, the split is not sure; these two have no rationales.
MIXTURE = {
  "vqav2": 100.0,
  "ocr_vqa": 50.0,
  "gqa": 86.0,
  "okvqa": 9.0,
  "aokvqa": 17.1,
  "tallyqa": 48.4,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is like "seed=1,px=812,data=mixture"."""
  options = config_arg.parse(
    arg, seed=0, steps=STEPS, px=448, data=("one", "mixture")
  )
  c = ml_collections.ConfigDict(config_sections.of_run())
  c.arm = "pali3_vpd"
  c.seed = options.seed
  c.total_steps = options.steps
  c.log_every_steps = 20
  c.data_dir = "runs/pali3/data/examples"
  c.init = "weights/pali3_5b"
  folder = c.get_ref("data_dir")
  sets, validation = {"vpd": (folder, 1.0)}, folder
  if options.data == "mixture":
    sets = {name: (folder + f"/{name}", size) for name, size in MIXTURE.items()}
    validation = folder + "/aokvqa"
  c.input = config_sections.inputs(
    data={
      name: dict(dir=of_set, split="train", weight=weight)
      for name, (of_set, weight) in sets.items()
    },
    batch_size=128,
    image_px=options.px,
    lengths=dict(prompt=64, label=16, rationale=256),
    vocab="sentencepiece:weights/pali3_5b/spiece.model",
    drop_long=True,
    num_workers=8,
  )
  c.model = config_sections.model(
    name="pali", size="pali3_5b", lora="vpd_generalist", remat="full"
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
  )
  c.sharding = config_sections.sharding("fsdp", fsdp=-1)
  c.evaluators = dict(
    validation=dict(
      name="vqa",
      dir=validation,
      split="validation",
      every_steps=max(1, c.total_steps // 8),
      batch_size=128,
    )
  )
  c.select = "validation/direct_accuracy"
  c.checkpoint = dict(every_steps=max(1, c.total_steps // 40), keep=2)
  return c
