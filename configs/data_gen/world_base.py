"""Captions, and things to find or name, for the base of the embedded world.

    python -m data_gen.run --config=configs/data_gen/world_base.py \
      --workdir=DIR

Labels only: no programs are written or run. Arguments, as in
`world_base.py:size=tiny,tasks=caption`:

    size   quickstart, or tiny (for tests)
    tasks  caption: captions alone, which the base is tuned on first; or
           mixture, its second phase: per image three phrases to find (one
           thing or all of a sort), one box to name, one phrase that is there
           or not

No words are read: the quickstart prints none.
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
  "mixture": {"find": 3, "at": 1, "exist": 1},
  "caption": {"caption": 1},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The config; `arg` is "name=value,name=value" of the docstring."""
  options = config_arg.parse(arg, size=tuple(SIZES), tasks=tuple(TASKS))
  config = ml_collections.ConfigDict()
  config.name = "world_base"
  config.seed = 0
  config.num_workers = 2
  config.stages = ("questions", "examples")
  config.splits = SIZES[options.size]
  config.source = {
    "name": "world_base",
    "tasks": TASKS[options.tasks],
  }
  config.questions = {"on_bad_image": "error"}
  config.writer = {"rationales": "none"}
  config.reuse = ""
  return config
