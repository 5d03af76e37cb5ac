"""Captioning, finding and reading in the embedded world, for the base model.

    python -m data_gen.run --config=configs/data_gen/world_base.py \
      --workdir=DIR

Labels only: no programs are written or run. Arguments, as in
`world_base.py:size=tiny,tasks=caption`:

    size   quickstart, or tiny (for tests)
    tasks  mixture: per image one caption, two phrases to find, one box to
           name; caption: captions alone, which the base is tuned on first
"""

import ml_collections

from vpd_jax import config_arg

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
TASKS = {
  "mixture": {"caption": 1, "find": 2, "at": 1},
  "caption": {"caption": 1},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The config; `arg` is "name=value,name=value" of the docstring."""
  arg = config_arg.parse(arg, size=tuple(SIZES), tasks=tuple(TASKS))
  config = ml_collections.ConfigDict()
  config.name = "world_base"
  config.seed = 0
  config.num_workers = 2
  config.stages = ("questions", "examples")
  config.splits = SIZES[arg.size]
  config.source = {
    "name": "world_base",
    "tasks": TASKS[arg.tasks],
  }
  config.questions = {"on_bad_image": "error"}
  config.writer = {"rationales": "none"}
  config.reuse = ""
  return config
