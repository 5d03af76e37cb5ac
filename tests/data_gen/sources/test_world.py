"""The embedded world: shards, answers, splits, pixels, messages."""

import collections
import io
import re

import numpy as np
import PIL.Image
import pytest

from data_gen import records
from data_gen.sources import _render, _scene, _view, world, world_base
from data_gen.tools import _typeface

FULL = {"shard": 0, "num_shards": 1, "seed": 0}
PHRASE = re.compile(r"\b([a-z]+) (square|circle|triangle|cross)\b")
RELATION = re.compile(r"\b(left|right|above|below|under)\b")


def _read(**changes):
  return list(
    world.read(**{**FULL, "split": "train", "num_images": 40, **changes})
  )


@pytest.fixture(scope="module")
def by_split():
  return {split: _read(split=split) for split in world.SPLITS}


def _pixels(encoded):
  return np.array(PIL.Image.open(io.BytesIO(encoded)))


def test_quickstart_image_is_a_48_px_jpeg(by_split):
  image = PIL.Image.open(io.BytesIO(by_split["train"][0].image))
  assert image.format == "JPEG"
  assert image.size == (48, 48)


def test_shards_together_are_the_split():
  whole = _read(num_images=7)
  parts = [
    q for s in range(3) for q in _read(num_images=7, shard=s, num_shards=3)
  ]
  assert whole == parts


def test_seed_and_split_change_images():
  images = {
    _read(num_images=1, seed=seed, split=split)[0].image
    for seed in (0, 1)
    for split in world.SPLITS
  }
  assert len(images) == 10


def test_reading_again_gives_the_same_bytes():
  assert _read(num_images=3) == _read(num_images=3)


def test_rows_survive_json(by_split):
  q = by_split["train"][0]
  again = records.from_json(records.Question, records.to_json(q))
  assert again.objects == q.objects
  assert again.reference_rationale == q.reference_rationale


def test_families_have_equal_shares():
  counts = collections.Counter(q.family for q in _read(num_images=250))
  assert set(counts) == set(world.QUICKSTART_FAMILIES)
  assert min(counts.values()) > 0.16 * sum(counts.values())


def test_answers_are_balanced():
  answers = collections.defaultdict(collections.Counter)
  for q in _read(num_images=250):
    answers[q.family][q.answers[0]] += 1
  for family in ("cmp", "and2"):
    assert set(answers[family]) == {"yes", "no"}
    assert 0.4 < answers[family]["yes"] / answers[family].total() < 0.6
  assert set(answers["count"]) == set("01234")
  assert max(answers["count"].values()) < 0.4 * answers["count"].total()


@pytest.mark.parametrize("split", ["train", "validation", "test_iid"])
def test_held_out_phrases_are_not_asked_about(by_split, split):
  held_out = world.held_out_phrases(world.make_setting("quickstart"))
  assert len(held_out) == 4
  asked = {m for q in by_split[split] for m in PHRASE.findall(q.question)}
  assert not asked & held_out
  assert len(asked) > 10


def test_test_phrase_asks_from_held_out_phrases_only(by_split):
  held_out = world.held_out_phrases(world.make_setting("quickstart"))
  for q in by_split["test_phrase"]:
    assert PHRASE.findall(q.question)[-1] in held_out
    assert q.family in world.COMPOSITION_FAMILIES


def test_relations_of_training_and_test_relation_are_apart(by_split):
  """A pair of family and relation is in one of the two, never in both."""
  used = {}
  for split in ("train", "test_relation"):
    used[split] = {
      (q.family, RELATION.findall(q.question)[0])
      for q in by_split[split]
      if q.family in ("attr", "count")
    }
  assert used["test_relation"] == {("attr", "left"), ("count", "above")}
  assert not used["train"] & used["test_relation"]
  for q in by_split["train"]:
    if q.family == "two":
      assert "left" not in RELATION.findall(q.question)
  for q in by_split["test_relation"]:
    if q.family == "two":
      assert "left" in RELATION.findall(q.question)


def test_every_box_of_a_reference_rationale_is_an_object(by_split):
  for questions in by_split.values():
    for q in questions:
      boxes = re.findall(r"\d+ \d+ \d+ \d+", q.reference_rationale)
      assert boxes
      assert {tuple(map(int, b.split())) for b in boxes} <= set(q.objects)
      assert q.reference_rationale.endswith(f" ; {q.answers[0]}")


def _scene_of(*things):
  """A scene of (colour, kind, y, x) with boxes of 10 px."""
  return _scene.Scene(
    tuple(
      _scene.Object(
        color,
        kind,
        "plain",
        0.0,
        "",
        (y, x, y + 10, x + 10),
        _scene.grid_box((y, x, y + 10, x + 10), 48),
      )
      for color, kind, y, x in things
    ),
    48,
  )


def test_relations_by_hand():
  """The centre decides: a box in the same column may begin further left."""
  scene = _scene_of(
    ("red", "square", 1, 1), ("red", "circle", 17, 5), ("blue", "cross", 17, 33)
  )
  view = _view.View(scene, world.make_setting("quickstart"))
  assert view.related("left", 2) == [0, 1]
  assert view.related("left", 1) == []
  assert view.related("above", 1) == [0]
  assert view.related("below", 0) == [1, 2]
  assert view.related("right", 0) == [2]


def test_near_miss_is_no_relation():
  """Centre 6 against border 6: too close to call."""
  scene = _scene_of(("red", "square", 1, 1), ("blue", "cross", 17, 6))
  view = _view.View(scene, world.make_setting("quickstart"))
  assert view.related("left", 1) is None


def test_box_on_the_grid_of_a_thousand():
  assert _scene.grid_box((1, 1, 11, 11), 48) == (21, 21, 229, 229)


@pytest.mark.parametrize("kind", _scene.KINDS)
@pytest.mark.parametrize("side", [10, 18, 36])
def test_every_kind_touches_all_sides_of_its_box(kind, side):
  mask = _render._coverage(kind, side, side)[:, :, 0]
  for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
    assert edge.max() > 0.5


def test_objects_are_drawn_where_their_boxes_are():
  """Without noise and hard objects, colour is inside the boxes only."""
  setting = world.make_setting(
    "quickstart",
    {
      "noise_std": 0.0,
      "faint_share": 0.0,
      "odd_hue_share": 0.0,
      "speckled_share": 0.0,
    },
  )
  rng = np.random.default_rng(3)
  for _ in range(5):
    scene = _scene.sample_scene(rng, setting)
    image = _render.render(scene, setting, rng).astype(int)
    is_colored = image.max(2) - image.min(2) > 60
    is_inside = np.zeros((48, 48), bool)
    for o in scene.objects:
      y1, x1, y2, x2 = o.box_yxyx_px
      is_inside[y1:y2, x1:x2] = True
      center = is_colored[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3]
      assert center.mean() > 0.5
    assert not (is_colored & ~is_inside).any()


def test_near_objects_are_larger_and_hide_little():
  setting = world.make_setting("large")
  rng = np.random.default_rng(0)
  for _ in range(20):
    scene = _scene.sample_scene(rng, setting)
    by_depth = sorted(scene.objects, key=lambda o: o.depth)
    widths = [o.box_yxyx_px[3] - o.box_yxyx_px[1] for o in by_depth]
    assert widths == sorted(widths, reverse=True)
    assert len(scene.objects) >= 4


def test_word_mask_by_hand():
  drawn = [
    "".join("#" if v else "." for v in row)
    for row in _typeface.word_mask("it", 1)
  ]
  assert drawn == ["###.###", ".#...#.", ".#...#.", ".#...#.", "###..#."]


def test_large_preset_asks_every_family():
  families = {q.family for q in _read(preset="large", num_images=25)}
  assert len(families) == 12


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"split": "tests"}, "split='tests' is not one of"),
    ({"preset": "huge"}, "preset='huge' is not one of"),
    ({"setting": {"num_object": (1, 2)}}, "Did you mean 'num_objects'"),
    ({"setting": {"image_px": 40}}, "needs 15 px, but a cell has 13"),
    ({"setting": {"colors": ["beige"]}}, "unknown: .'beige'."),
    ({"setting": {"num_objects": (3, 12)}}, "do not fit 9 cells"),
    ({"setting": {"words": ("cat",)}}, "at least 17 px"),
    ({"families": ("attr", "atr")}, "families .'atr'. do not exist"),
    ({"families": ("cmp",), "split": "test_phrase"}, "asks only"),
    ({"setting": {"num_objects": (1, 1)}}, "allow more objects"),
    ({"shard": 2, "num_shards": 2}, "shard=2 is not in 0..1"),
  ],
)
def test_messages(changes, message):
  with pytest.raises(ValueError, match=message):
    _read(**changes)


def _read_base(**changes):
  tasks = {name: 1 for name in world_base.TASKS if name != "words"}
  options = {"split": "train", "num_images": 60, "tasks": tasks}
  return list(world_base.read(**{**FULL, **options, **changes}))


def test_base_tasks_by_hand(monkeypatch):
  scene = _scene_of(("red", "square", 1, 1), ("blue", "square", 17, 33))
  monkeypatch.setattr(_scene, "sample_scene", lambda rng, setting: scene)
  rows = {q.question: q.answers[0] for q in _read_base(num_images=2000)}
  red, blue = "21 21 229 229", "354 687 562 895"
  assert rows["Caption the image."] == f"{red} red square ; {blue} blue square"
  assert rows["Find the red square."] == red
  assert rows["Find the square."] == f"{red} , {blue}"
  assert rows["Where is the thing?"] == f"{red} , {blue}"
  assert rows["Find the blue thing."] == blue
  assert rows["Find the green circle."] == "none"
  assert rows["Find all blue squares."] == blue
  assert rows["Where are the things?"] == f"{red} , {blue}"
  assert rows[f"What is at {blue}?"] == "blue square"
  assert rows[f"What color is the thing at {red}?"] == "red"
  assert rows[f"What shape is the thing at {red}?"] == "square"
  assert rows["Is there a red thing?"] == "yes"
  assert rows["Is there a circle?"] == "no"


def test_base_asks_as_often_about_what_is_not_there():
  rows = _read_base(num_images=500, tasks={"exist": 2})
  share = sum(q.answers[0] == "yes" for q in rows) / len(rows)
  assert 0.4 < share < 0.6


def test_phrasings_limit_the_ways_of_saying_a_thing():
  def templates(phrasings):
    rows = _read(num_images=200, setting={"phrasings": phrasings})
    return {" ".join(q.question.split()[:2]) for q in rows}

  assert "Count the" not in templates(1)
  assert templates(1) < templates(3)
  assert not any(
    "to the left" in q.question
    for q in _read(num_images=100, setting={"phrasings": 1})
  )


def test_base_images_are_none_of_the_world(by_split):
  images = {q.image for questions in by_split.values() for q in questions}
  assert not images & {q.image for q in _read_base()}


def test_base_counts_tasks_and_finds_every_phrase():
  rows = _read_base(num_images=900, tasks={"find": 3, "at": 1})
  counts = collections.Counter(q.family for q in rows)
  assert counts["at"] == 900
  assert counts["find"] > 2670
  found = {q.question for q in rows}
  for color in _scene.COLORS[:4]:
    for kind in _scene.KINDS[:4]:
      assert f"Find the {color} {kind}." in found


def test_base_reads_words():
  rows = _read_base(preset="large", tasks={"words": 1}, num_images=10)
  read = [q for q in rows if q.answers[0] != "none"]
  assert read
  for q in read:
    assert q.answers[0].split()[4] in _scene.WORDS


def test_base_messages():
  with pytest.raises(ValueError, match=r"tasks \['findd'\] do not exist"):
    _read_base(tasks={"findd": 1})
  with pytest.raises(ValueError, match="prints no words"):
    _read_base(tasks={"words": 1})
  with pytest.raises(ValueError, match="split='test_iid'"):
    _read_base(split="test_iid")
