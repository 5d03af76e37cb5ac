"""Real photographs through the stages that the embedded world goes through.

    python -m data_gen.run --config=configs/data_gen/photos.py --workdir=DIR

Needs the extra [tools] (scikit-image carries the photographs, OpenCV the
detectors) and the system package tesseract-ocr. Under a minute on two cores.
The program writer is a stand-in that fills in templates, and the tools are
those that need no download; both were written with these pictures in sight,
so the yield says nothing about other pictures. The point is that the path
takes real ones.

Your own pictures: `configs/data_gen/own.py`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The config; it takes no arguments."""
  config = ml_collections.ConfigDict()
  config.name = "photos"
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
    "train": {"num_shards": 2},
    "test_photos": {"num_shards": 1},
  }
  config.source = {"name": "photos"}
  config.questions = {"on_bad_image": "error"}
  config.llm = {"name": "templates"}
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
  config.rationale = {"form": "sentences"}
  config.writer = {"rationales": "program"}
  config.max_drop_share = {}
  config.reuse = ""
  return config
