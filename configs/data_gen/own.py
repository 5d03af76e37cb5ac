"""Your own images and questions, with programs from your own LLM.

    python -m data_gen.run --config=configs/data_gen/own.py --workdir=DIR \
      --config.source.path=questions.jsonl \
      --config.llm.base_url=http://localhost:8000/v1 --config.llm.model=NAME

The file's format is in `data_gen.sources.jsonl`: a line names its split,
`"split": "train"` or `"validation"` (one that names none is of
`config.source.default_split`), and each split of `config.splits` needs lines.
The server speaks the OpenAI protocol, and a key is taken from the environment
variable VPD_LLM_API_KEY. Completions are kept in `config.llm.cache_dir`, so
that a second run asks for none twice.

The tools here are those for photographs that need no download. They need the
extra [tools] (pip install 'vpd_jax[tools]') and the system package
tesseract-ocr; name your own in `config.tools`.

Programs see the API of Visual Program Distillation. For that of ViperGPT:

    --config.sampling.prompt=viper_v1 --config.sandbox.profile=viper

No training config fits this data as it is: the shipped ones name the embedded
world's data sets. Copy one, and give it this data set (DIR/examples), lengths
that hold your prompts, answers and rationales, and a vocabulary of your words:

    python -m vpd_jax.input.make_vocab DIR/examples --out=VOCAB.txt
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The config; it takes no arguments."""
  config = ml_collections.ConfigDict()
  config.name = "own"
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
  config.splits = {
    "train": {"num_shards": 4},
    "validation": {"num_shards": 1},
  }
  # All options of the source, the client and the sandbox are here, so that
  # each can be given on the command line.
  config.source = {
    "name": "jsonl",
    "path": "questions.jsonl",
    "image_dir": "",  # Where image paths start; empty: the file's folder.
    "default_split": "train",
  }
  config.questions = {"on_bad_image": "error"}
  config.llm = {
    "name": "openai_compatible",
    "base_url": "http://localhost:8000/v1",
    "model": "",
    "cache_dir": "runs/llm_cache",
    "timeout_s": 120.0,
    "max_retries": 6,
    "retry_wait_s": 1.0,
    "num_threads": 8,
    "wants_scores": True,
  }
  config.sampling = {
    "num_programs": 5,
    "temperature": 0.5,
    "prompt": "vpd_v1",
  }
  config.tools = {
    "find": {"name": "photo_find"},
    "visual_question_answering": {"name": "photo_vqa"},
    "compute_depth": {"name": "photo_depth"},
    "ocr": {"name": "photo_ocr"},
    "language_question_answering": {"name": "photo_knowledge"},
    "image_caption": {"name": "photo_caption"},
    # Called by ViperGPT's API alone.
    "verify_property": {"name": "photo_verify"},
    "match_scores": {"name": "photo_match"},
  }
  config.sandbox = {
    "profile": "vpd",  # The API that config.sampling.prompt teaches.
    "wall_time_s": 30.0,
    "cpu_s": 2,
    "memory_mb": 512,
    "max_tool_calls": 200,
    "max_llm_calls": 20,
    "max_output_bytes": 65536,
    "max_answer_chars": 400,
    "allow_unsafe_no_kernel_layer": False,
  }
  # How programs share the machine; it changes no result. Answers of tools
  # are kept in cache_dir for later runs; "" keeps none.
  config.engine = {
    "in_flight": 64,
    "batch_window_s": 0.005,
    "cache_dir": "runs/tool_cache",
    "processes": {},
  }
  config.filter = {"mode": "filtered", "labels": "gold"}
  config.rationale = {"form": "sentences"}
  config.writer = {"rationales": "program"}
  config.max_drop_share = {}
  config.reuse = ""
  return config
