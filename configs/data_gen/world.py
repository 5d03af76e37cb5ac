"""The embedded world: questions to records, with nothing to download.

    python -m data_gen.run --config=configs/data_gen/world.py --workdir=DIR

Arguments: `world.py:size=tiny,variant=k1`.

    size     quickstart; tiny (a few images, for tests); or large: a million
             questions of all families about images of 128 px, with eight
             colours, seven kinds, textures, overlap and printed words, and
             rationales in sentences
    variant  what the student learns from; all share questions, programs and
             runs, which `--config.reuse=DIR` takes from a finished workdir:
      filtered    programs whose answer is right (the method)
      unfiltered  the first program that ran, whatever it answers; its
                  rationale ends with what it answered
      k1          filtered, of one program instead of five
      clean       the world's own rationales: an upper bound
      pseudo      no labels: one program's answer and trace, not filtered
      mismatched  rationales of other questions: a control

Source of the sizes, k and the temperature: Hu et al., Visual Program
Distillation (arXiv:2312.03052) for the last two; the sizes are our own.
"""

import ml_collections

from vpd_jax import config_arg

SIZES = {
  "quickstart": {
    "train": {"num_images": 2000, "num_shards": 8},
    "validation": {"num_images": 300, "num_shards": 2},
    "test_iid": {"num_images": 500, "num_shards": 2},
    "test_phrase": {"num_images": 200, "num_shards": 1},
    "test_relation": {"num_images": 200, "num_shards": 1},
  },
  "large": {
    "train": {"num_images": 250_000, "num_shards": 512},
    "validation": {"num_images": 2000, "num_shards": 4},
    "test_iid": {"num_images": 5000, "num_shards": 8},
    "test_phrase": {"num_images": 2000, "num_shards": 4},
    "test_relation": {"num_images": 2000, "num_shards": 4},
  },
  "tiny": {
    "train": {"num_images": 8, "num_shards": 2},
    "validation": {"num_images": 3, "num_shards": 1},
    "test_iid": {"num_images": 3, "num_shards": 1},
    "test_phrase": {"num_images": 2, "num_shards": 1},
    "test_relation": {"num_images": 2, "num_shards": 1},
  },
}
# All names of the source's preset "large", and what words are printed on.
COLORS = (
  *("red", "green", "blue", "yellow"),
  *("purple", "orange", "cyan", "pink"),
)
KINDS = (
  *("square", "circle", "triangle", "cross", "diamond", "ring", "star"),
  "sign",
)
VARIANTS = {
  "filtered": {},
  "unfiltered": {"filter": {"mode": "unfiltered"}},
  "k1": {"filter": {"max_programs": 1}},
  "clean": {"writer": {"rationales": "reference"}},
  "pseudo": {
    "filter": {"mode": "unfiltered", "labels": "none", "max_programs": 1},
    "max_drop_share": {"examples": 0.5},
  },
  "mismatched": {"writer": {"rationales": "mismatched"}},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The config; `arg` is "key=value,key=value" of the file's docstring."""
  options = config_arg.parse(arg, size=tuple(SIZES), variant=tuple(VARIANTS))
  config = ml_collections.ConfigDict()
  config.name = "world"
  config.seed = 0
  config.num_workers = 2
  config.stages = (
    "questions",
    "programs",
    "runs",
    "choices",
    "rationales",
    "examples",
  )
  config.splits = SIZES[options.size]
  # One phrasing of each question: with 8000 questions the student has no room
  # to learn three. More of them need a longer config.input.lengths.prompt.
  config.source = {
    "name": "world",
    "preset": "quickstart",
    "families": (),
    "questions_per_image": 4,
    "setting": {"phrasings": 1},
  }
  config.questions = {"on_bad_image": "error"}
  config.llm = {"name": "grammar"}
  config.sampling = {
    "num_programs": 5,
    "temperature": 0.5,
    "prompt": "vpd_v1",
  }
  config.tools = {
    "find": {"name": "world_find"},
    "visual_question_answering": {"name": "world_vqa"},
    "compute_depth": {"name": "world_depth"},
    "ocr": {"name": "world_ocr"},
    "language_question_answering": {"name": "world_knowledge"},
    "image_caption": {"name": "world_caption"},
  }
  config.sandbox = {"wall_time_s": 30.0, "cpu_s": 2, "memory_mb": 512}
  # How programs share the machine; it changes no result.
  config.engine = {
    "in_flight": 64,
    "batch_window_s": 0.005,
    "cache_dir": "",
    "processes": {},
  }
  config.filter = {"mode": "filtered", "labels": "gold"}
  # 99 in 100 true ones are shorter; the rest would make all batches longer.
  config.rationale = {"form": "short", "max_chars": 91}
  config.writer = {"rationales": "program"}
  config.max_drop_share = {}
  if options.size == "large":
    _make_large(config)
  config.update(VARIANTS[options.variant])
  config.reuse = ""
  return config


def _make_large(config) -> None:
  """The source's preset "large", and tools that know all of its names."""
  config.source.preset = "large"
  config.source.setting.phrasings = 3
  for call, tool in config.tools.items():
    if call != "language_question_answering":  # Knows all kinds already.
      tool.update(colors=COLORS, kinds=KINDS)
  # 99 in 100 are shorter.
  config.rationale = {"form": "sentences", "max_chars": 300}
