"""The embedded world: seeded scenes, rendered, and questions about them.

    for question in read(split="train", shard=0, num_shards=8, seed=0,
                         num_images=2000):
      ...

Image i of a split depends on the seed, the split's name and i alone, so any
shard can be made alone. Two splits test composition: "test_phrase" asks from
(colour, kind) phrases that no training question mentions, "test_relation"
uses pairs of family and relation that training never does.
"""

import dataclasses
import itertools
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_gen import records
from data_gen.sources import _questions, _render, _scene, _view
from vpd_jax import spelling

QUICKSTART_FAMILIES = ("attr", "two", "count", "cmp", "and2")
COMPOSITION_FAMILIES = ("attr", "two", "count")
SPLITS = ("train", "validation", "test_iid", "test_phrase", "test_relation")
PRESETS = types.MappingProxyType(
  {
    "quickstart": _scene.Setting(),
    "large": _scene.Setting(
      image_px=128,
      cells=0,
      num_objects=(4, 9),
      colors=_scene.COLORS,
      kinds=_scene.KINDS,
      textures=_scene.TEXTURES,
      words=_scene.WORDS,
    ),
  }
)
_HELD_OUT_RELATIONS = types.MappingProxyType(
  {"attr": "left", "two": "left", "count": "above"}
)
_MOST_SCENES = 500


def read(
  *,
  split: str,
  shard: int,
  num_shards: int,
  seed: int,
  num_images: int,
  preset: str = "quickstart",
  families: Sequence[str] = (),
  questions_per_image: int = 4,
  setting: Mapping[str, Any] | None = None,
) -> Iterator[records.Question]:
  """Yields the questions of one shard, image by image.

  Args:
    split: one of SPLITS.
    shard, num_shards: which contiguous part of the images.
    seed: of the whole data set.
    num_images: in the split, over all shards.
    preset: name in PRESETS.
    families: to ask; none given: the preset's. The composition splits ask
      those of COMPOSITION_FAMILIES that are among them.
    questions_per_image: of different families while these last.
    setting: fields of the preset's setting to change, such as
      {"num_objects": (2, 4)}.

  Raises:
    ValueError: for an unknown name, with those that exist; or if the setting
      has no scene to which the families apply.
  """
  world = make_setting(preset, setting)
  rules = split_rules(split, world)
  asked_families = _families(split, preset, families)
  for index in range(*shard_range(num_images, shard, num_shards)):
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    scene, asked = _ask(rng, world, rules, asked_families, questions_per_image)
    image = _render.encode_jpeg(
      _render.render(scene, world, rng), world.jpeg_quality
    )
    image_id = f"world-{split}-{index:07d}"
    for number, a in enumerate(asked):
      yield records.Question(
        question_id=f"{image_id}-{number}",
        image_id=image_id,
        question=a.question,
        answers=(a.answer,),
        split=split,
        family=a.family,
        objects=tuple(o.box for o in scene.objects),
        reference_rationale=a.reference_rationale,
        image=image,
      )


def make_setting(
  preset: str, changes: Mapping[str, Any] | None = None
) -> _scene.Setting:
  """A preset's setting with some fields changed."""
  if preset not in PRESETS:
    raise ValueError(f"preset={preset!r} is not one of {sorted(PRESETS)}.")
  changes = dict(changes or {})
  known = [f.name for f in dataclasses.fields(_scene.Setting)]
  for name in changes:
    if name not in known:
      hint = spelling.hint(name, known)
      raise ValueError(f"setting has no {name!r}.{hint} It has {known}.")
  changes = {
    k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()
  }
  return dataclasses.replace(PRESETS[preset], **changes)


def held_out_phrases(
  setting: _scene.Setting,
) -> frozenset[_view.Phrase]:
  """One (colour, kind) phrase per kind that no training question mentions."""
  last = len(setting.colors) - 1
  return frozenset(
    (setting.colors[(last + i) % len(setting.colors)], kind)
    for i, kind in enumerate(setting.kinds)
  )


def split_rules(split: str, setting: _scene.Setting) -> _view.Rules:
  """What a split may ask."""
  if split not in SPLITS:
    raise ValueError(f"split={split!r} is not one of {SPLITS}.")
  pairs = list(itertools.product(_view.RELATIONS, repeat=2))
  is_new = split == "test_relation"
  relations: dict[str, list] = {
    family: [r for r in _view.RELATIONS if (r == held) is is_new]
    for family, held in _HELD_OUT_RELATIONS.items()
  }
  held = _HELD_OUT_RELATIONS["two"]
  relations["two"] = [pair for pair in pairs if (held in pair) is is_new]
  held_out = held_out_phrases(setting)
  return _view.Rules(
    anchors=held_out if split == "test_phrase" else None,
    held_out=held_out,
    relations=relations,
  )


def shard_range(
  num_images: int, shard: int, num_shards: int
) -> tuple[int, int]:
  """First image of the shard, and the first that is not in it."""
  if not 0 <= shard < num_shards:
    raise ValueError(f"shard={shard} is not in 0..{num_shards - 1}.")
  return num_images * shard // num_shards, (
    num_images * (shard + 1) // num_shards
  )


def _families(split, preset, families):
  if not families and preset == "quickstart":
    families = QUICKSTART_FAMILIES
  families = tuple(families) or tuple(_questions.FAMILIES)
  unknown = sorted(set(families) - set(_questions.FAMILIES))
  if unknown:
    raise ValueError(
      f"families {unknown} do not exist; there are"
      f" {sorted(_questions.FAMILIES)}."
    )
  if split in ("test_phrase", "test_relation"):
    families = tuple(f for f in families if f in COMPOSITION_FAMILIES)
    if not families:
      raise ValueError(
        f"split {split} asks only {COMPOSITION_FAMILIES}; families has none"
        " of them. Leave this split out of config.splits, or add one."
      )
  return families


def _ask(rng, setting, rules, families, count):
  """Draws scenes until one has a question of each chosen family."""
  draw = _view.Draw(rng, setting.phrasings)
  order = rng.permutation(len(families)).tolist()
  chosen = [families[order[i % len(order)]] for i in range(count)]
  for _ in range(_MOST_SCENES):
    scene = _scene.sample_scene(rng, setting)
    view = _view.View(scene, setting)
    asked: list[_view.Asked] = []
    for family in chosen:
      a = _questions.FAMILIES[family](view, rules, draw)
      if a is None or any(a.question == b.question for b in asked):
        break
      asked.append(a)
    else:
      return scene, asked
  raise ValueError(
    f"none of {_MOST_SCENES} scenes has a question of each of {chosen};"
    " allow more objects (num_objects), or ask for fewer families."
  )
