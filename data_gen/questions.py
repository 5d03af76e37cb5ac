"""The stage `questions`: reads a source, checks images, writes each once."""

import hashlib
import io
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import PIL.Image

from data_gen import shard_files
from data_gen.filter import dedupe
from vpd_jax import config_check, lookup
from vpd_jax.input import tfrecord

BAD_IMAGE = "bad_image"
DUPLICATE = "duplicate_question"


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  read = _source(config).read
  for split, options in config["splits"].items():
    if options.get("num_shards", 0) < 1:
      raise ValueError(
        f"config.splits.{split}.num_shards={options.get('num_shards')} must be"
        " 1 or more."
      )
    config_check.check_keywords(
      read,
      _source_options(config, split),
      "source",
      given=("split", "shard", "num_shards", "seed"),
    )
  config_check.check_keywords(Options, config.get("questions", {}), "questions")
  Options(**config.get("questions", {}))
  return {}


class Options:
  """The section `questions`.

  Args:
    on_bad_image: "error" stops at an image that is missing or cannot be
      decoded; "drop" leaves out its questions, and counts them.
  """

  def __init__(self, on_bad_image: Literal["error", "drop"] = "error"):
    if on_bad_image not in ("error", "drop"):
      raise ValueError(
        f"config.questions.on_bad_image={on_bad_image!r} is neither 'error'"
        " nor 'drop'."
      )
    self.on_bad_image = on_bad_image


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._config = config
    self._read = _source(config).read
    self._options = Options(**config.get("questions", {}))

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Reads the shard's questions; see `data_gen.stage`."""
    out.open(f"{shard}.jsonl")
    images_name = shard_files.images_name(shard)
    out.open(images_name)
    hashes: dict[str, str] = {}
    bad: set[str] = set()
    seen = dedupe.Seen()
    for question in self._read(
      split=shard.split,
      shard=shard.index,
      num_shards=shard.num_shards,
      seed=self._config["seed"],
      **_source_options(self._config, shard.split),
    ):
      image_id = question.image_id
      if image_id not in hashes:
        hashes[image_id] = hashlib.sha256(question.image).hexdigest()
        fault = image_fault(question.image)
        if fault and self._options.on_bad_image == "error":
          raise ValueError(
            f"image {image_id!r} of question {question.question_id!r}: {fault}."
            " Mend or remove it, or drop such images with"
            " --config.questions.on_bad_image=drop."
          )
        if fault:
          bad.add(image_id)
        else:
          frame = {"image_id": [image_id.encode()], "image": [question.image]}
          out.write_frame(tfrecord.encode_example(frame), images_name)
      elif hashes[image_id] != hashlib.sha256(question.image).hexdigest():
        raise ValueError(
          f"question {question.question_id!r} gives other bytes for image"
          f" {image_id!r} than a question before it; give each image its id."
        )
      if image_id in bad:
        out.tally(question.family, BAD_IMAGE)
      elif not seen.add(question):
        out.tally(question.family, DUPLICATE)
      else:
        out.write_row(question)
        out.tally(question.family)

  def close(self) -> None:
    """See `data_gen.stage`."""


def image_fault(encoded: bytes) -> str:
  """Why an image cannot be used; "" if it can.

  An image is decoded whole, so that a truncated one is found here and not in
  the middle of a training run.
  """
  if not encoded:
    return "there is no such file, or it is empty"
  try:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
      if image.format not in ("JPEG", "PNG"):
        return f"it is a {image.format} file, not JPEG or PNG"
      image.load()
  except PIL.UnidentifiedImageError:
    return f"its {len(encoded)} bytes are no JPEG or PNG image"
  except (OSError, SyntaxError, ValueError) as e:
    return f"it cannot be decoded: {e}"
  return ""


def _source(config):
  return lookup.module("data_gen.sources", config["source"]["name"])


def _source_options(config, split):
  options = {**config["source"], **config["splits"][split]}
  return {k: v for k, v in options.items() if k not in ("name", "num_shards")}
