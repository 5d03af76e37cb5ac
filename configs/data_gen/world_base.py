"""Captioning, finding and reading in the embedded world, for the base model.

    python -m data_gen.run --config=configs/data_gen/world_base.py \
      --workdir=DIR

Labels only: no programs are written or run. Argument: `:size=tiny`.
"""

import ml_collections

SIZES = {
  "quickstart": {
    "train": {"num_images": 12000, "num_shards": 8},
    "validation": {"num_images": 300, "num_shards": 1},
  },
  "tiny": {
    "train": {"num_images": 8, "num_shards": 2},
    "validation": {"num_images": 3, "num_shards": 1},
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The config; `arg` is "size=tiny" or nothing."""
  key, _, size = (arg or "size=quickstart").partition("=")
  if key != "size" or size not in SIZES:
    raise ValueError(f"argument {arg!r} is not size=NAME, of {[*SIZES]}")
  config = ml_collections.ConfigDict()
  config.name = "world_base"
  config.seed = 0
  config.num_workers = 2
  config.stages = ("questions", "examples")
  config.splits = SIZES[size]
  config.source = {
    "name": "world_base",
    "tasks": {"caption": 1, "find": 2, "at": 1},
  }
  config.questions = {"on_bad_image": "error"}
  config.writer = {"rationales": "none"}
  config.reuse = ""
  return config
