"""Tasks that say what is where in the embedded world, for the base model.

Captions (its first phase), then finding what a phrase names, naming what is
in a box and saying whether a thing is there; reading ("words") only where the
setting prints words. The base is tuned on them before any student learns to
answer questions that relate or compare things, as PaLI's own pretraining is a
mixture of such tasks. Images have streams of their own, so
none of them is an image of `data_gen.sources.world`, whatever the seed. The
phrases that the world's composition splits hold out do occur here: it is
questions that have not been asked about them, not words that are new.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data_gen import records
from data_gen.sources import _render, _scene, _view, world

SPLITS = ("train", "validation")
TASKS = ("caption", "find", "at", "exist", "words")
NONE = "none"
# No relation and no comparison: those are what the students learn.
_FIND_TEXTS = (
  "Find the {}.",
  "Where is the {}?",
  "Locate each {} in the image.",
  "In the image, where is the {}?",
  "How can I find the {}?",
)
_FIND_ALL_TEXTS = (
  "Find all {}.",
  "Where are the {}?",
  "In the image, where are the {}?",
  "Locate the {} in the image.",
)
_PLURAL_SHARE = 0.4
_EXIST_TEXTS = (
  "Is there a {}?",
  "Is there a {} in the image?",
  "Does the image show a {}?",
)
# Of phrases: red square, square, red thing, thing.
_FIND_WEIGHTS = (0.4, 0.25, 0.25, 0.1)
# Phrases drawn from what the image shows; the rest from all there are.
_SHOWN_SHARE = 0.7
_MOST_DRAWS = 50


def read(
  *,
  split: str,
  shard: int,
  num_shards: int,
  seed: int,
  num_images: int,
  preset: str = "quickstart",
  tasks: Mapping[str, int],
  setting: Mapping[str, Any] | None = None,
) -> Iterator[records.Question]:
  """Yields the tasks of one shard, image by image; a task is the family.

  Args:
    split: one of SPLITS.
    shard, num_shards: which contiguous part of the images.
    seed: of the whole data set.
    num_images: in the split, over all shards.
    preset, setting: as in `data_gen.sources.world.read`.
    tasks: how many of each of TASKS per image. "words" needs a setting with
      words.

  Raises:
    ValueError: for an unknown name, with those that exist.
  """
  made = world.make_setting(preset, setting)
  counts = dict(tasks)
  if split not in SPLITS:
    raise ValueError(f"split={split!r} is not one of {SPLITS}.")
  unknown = sorted(set(counts) - set(TASKS))
  if unknown:
    raise ValueError(f"tasks {unknown} do not exist; there are {TASKS}.")
  if counts.get("words") and not made.words:
    raise ValueError("tasks has words, but the setting prints no words.")
  stream = zlib.crc32(f"base-{split}".encode())
  for index in range(*world.shard_range(num_images, shard, num_shards)):
    rng = np.random.default_rng([seed, stream, index])
    scene = _scene.sample_scene(rng, made)
    image = _render.encode_jpeg(
      _render.render(scene, made, rng), made.jpeg_quality
    )
    image_id = f"world_base-{split}-{index:07d}"
    rows = _rows(scene, made, counts, _view.Draw(rng, made.phrasings))
    for number, (task, prompt, answer) in enumerate(rows):
      yield records.Question(
        question_id=f"{image_id}-{number}",
        image_id=image_id,
        question=prompt,
        answers=(answer,),
        split=split,
        family=task,
        objects=tuple(o.box for o in scene.objects),
        image=image,
      )


def _rows(scene, setting, counts, draw):
  """(task, prompt, answer) of one image, no prompt twice."""
  rows: dict[str, tuple[str, str, str]] = {}
  makers: dict[str, Callable] = {
    "caption": _caption,
    "find": _find,
    "at": _at,
    "exist": _exist,
    "words": _words,
  }
  for task, count in counts.items():
    wanted = len(rows) + count
    for _ in range(_MOST_DRAWS):
      if len(rows) == wanted:
        break
      prompt, answer = makers[task](scene, setting, draw)
      rows.setdefault(prompt, (task, prompt, answer))
  return list(rows.values())


def _text(box):
  return " ".join(map(str, box))


def _caption(scene, setting, draw):
  del setting, draw
  answer = " ; ".join(
    f"{_text(o.box)} {o.color} {o.kind}" for o in scene.objects
  )
  return "Caption the image.", answer


def _find(scene, setting, draw):
  noun, color, kind = _noun(scene, setting, draw)
  if draw.chance() < _PLURAL_SHARE:
    noun = " ".join(filter(None, (color, _view.plural(kind or "thing"))))
    text = draw.pick(_FIND_ALL_TEXTS)
  else:
    text = draw.pick(_FIND_TEXTS)
  return text.format(noun), " , ".join(_boxes(scene, color, kind)) or NONE


def _exist(scene, setting, draw):
  is_there = draw.chance() < 0.5
  noun, found = "", []
  # Ends soon: of three to six things, most phrases name none.
  while not noun or bool(found) != is_there:
    noun, color, kind = _noun(scene, setting, draw, shown_share=0.5)
    found = _boxes(scene, color, kind)
  return draw.pick(_EXIST_TEXTS).format(noun), "yes" if found else "no"


def _noun(scene, setting, draw, shown_share=_SHOWN_SHARE):
  """A noun phrase, and the colour and kind that it names, "" for any."""
  form = draw.weighted(range(4), _FIND_WEIGHTS)
  if draw.chance() < shown_share:
    o = draw.pick(scene.objects)
    color, kind = o.color, o.kind
  else:
    color, kind = draw.pick(setting.colors), draw.pick(setting.kinds)
  color, kind = ((color, kind), ("", kind), (color, ""), ("", ""))[form]
  return " ".join(filter(None, (color, kind or "thing"))), color, kind


def _boxes(scene, color, kind):
  return [
    _text(o.box)
    for o in scene.objects
    if color in ("", o.color) and kind in ("", o.kind)
  ]


def _at(scene, setting, draw):
  del setting
  o = draw.pick(scene.objects)
  question, answer = draw.pick(
    (
      ("What is at {}?", f"{o.color} {o.kind}"),
      ("What color is the thing at {}?", o.color),
      ("What shape is the thing at {}?", o.kind),
    )
  )
  return question.format(_text(o.box)), answer


def _words(scene, setting, draw):
  del setting, draw
  read_words = [f"{_text(o.box)} {o.word}" for o in scene.objects if o.word]
  return "Read the words.", " ; ".join(read_words) or NONE
