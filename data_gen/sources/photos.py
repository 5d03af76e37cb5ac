"""Hand-written questions about the photographs that scikit-image carries.

The questions are `data/photos_questions.jsonl`, in the format of
`data_gen.sources.jsonl`, which reads your own.
"""

import importlib.util
import pathlib
from collections.abc import Iterator

from data_gen import records
from data_gen.sources import jsonl

_QUESTIONS_FILE = "data/photos_questions.jsonl"


def read(
  *, split: str, shard: int, num_shards: int, seed: int
) -> Iterator[records.Question]:
  """Yields the questions of one shard; see `data_gen.sources.jsonl.read`.

  Raises:
    FileNotFoundError: if scikit-image is not installed.
    ValueError: if no question is of the split.
  """
  return jsonl.read(
    split=split,
    shard=shard,
    num_shards=num_shards,
    seed=seed,
    path=str(pathlib.Path(__file__).parent / _QUESTIONS_FILE),
    image_dir=str(_image_dir()),
  )


def _image_dir() -> pathlib.Path:
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise FileNotFoundError(
      "the photographs are those of scikit-image, which is not installed:"
      " pip install 'vpd_jax[tools]'."
    )
  return pathlib.Path(spec.origin).parent / "data"
