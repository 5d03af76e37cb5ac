"""Samples scenes of the embedded world: what is where, before any pixel.

Two kinds of layout. On a grid (`cells` > 0), each object has a cell of its
own and a box offset by a few pixels in it. In free placement (`cells` = 0),
objects have a depth: nearer ones are larger and drawn over farther ones.
"""

import dataclasses
import functools

import numpy as np

from data_gen.tools import tool

COLORS = (
  "red",
  "green",
  "blue",
  "yellow",
  "purple",
  "orange",
  "cyan",
  "pink",
)
KINDS = (
  "square",
  "circle",
  "triangle",
  "cross",
  "diamond",
  "ring",
  "star",
)
SIGN = "sign"
TEXTURES = ("plain", "striped", "dotted")
WORDS = (
  *("cat", "dog", "sun", "bus", "map", "tea", "box", "key", "pen", "cup"),
  *("fish", "bird", "tree", "milk", "road", "lamp", "ship", "door", "park"),
  *("stop", "exit", "open", "sale", "taxi", "cafe", "bank", "shop", "zoo"),
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """What scenes look like. The defaults are the quickstart's.

  Attributes:
    image_px: side of the square image.
    cells: rows and columns of the grid; 0 is free placement.
    object_px: side of an object's box on the grid.
    offsets_px: of a box in its cell, drawn per axis.
    num_objects: fewest and most.
    colors, kinds, textures: to draw from.
    sizes_px: in free placement, side of the farthest and nearest object.
    max_hidden_share: in free placement, of an object's box behind others.
    words: to print on signs; none: no signs.
    sign_share: of objects that are signs, where there are words.
    patches: most background patches.
    noise_std: of pixel noise, in 0..255.
    hue_jitter: standard deviation of an object's hue, of a full turn.
    faint_share: of objects that are nearly transparent.
    odd_hue_share: of objects whose hue is far from its name's.
    speckled_share: of objects with many of their pixels missing.
    jpeg_quality: as in Pillow.
    phrasings: most ways of saying each thing in a question.
  """

  image_px: int = 48
  cells: int = 3
  object_px: int = 10
  offsets_px: tuple[int, ...] = (1, 3, 5)
  num_objects: tuple[int, int] = (3, 6)
  colors: tuple[str, ...] = COLORS[:4]
  kinds: tuple[str, ...] = KINDS[:4]
  textures: tuple[str, ...] = TEXTURES[:1]
  sizes_px: tuple[int, int] = (18, 36)
  max_hidden_share: float = 0.35
  words: tuple[str, ...] = ()
  sign_share: float = 0.2
  patches: int = 3
  noise_std: float = 5.0
  hue_jitter: float = 0.01
  faint_share: float = 0.03
  odd_hue_share: float = 0.05
  speckled_share: float = 0.03
  jpeg_quality: int = 90
  phrasings: int = 3

  def __post_init__(self):
    for name, known in (
      ("colors", COLORS),
      ("kinds", KINDS),
      ("textures", TEXTURES),
    ):
      unknown = sorted(set(getattr(self, name)) - set(known))
      if unknown or not getattr(self, name):
        raise ValueError(
          f"{name}={getattr(self, name)} must be some of {known};"
          f" unknown: {unknown}."
        )
    low, high = self.num_objects
    if not 1 <= low <= high:
      raise ValueError(
        f"num_objects={self.num_objects} must be (fewest, most), 1 or more."
      )
    if self.cells:
      cell_px = self.image_px // self.cells
      need_px = max(self.offsets_px) + self.object_px
      if need_px > cell_px:
        raise ValueError(
          f"object_px={self.object_px} at offset {max(self.offsets_px)} needs"
          f" {need_px} px, but a cell has {cell_px}; make image_px larger or"
          " the objects smaller."
        )
      if high > self.cells**2:
        raise ValueError(
          f"num_objects={self.num_objects} do not fit {self.cells**2} cells."
        )
    smallest_px = self.object_px if self.cells else self.sizes_px[0]
    if self.words and smallest_px < 17:
      raise ValueError(
        f"words need objects of at least 17 px to be legible, got"
        f" {smallest_px}; raise object_px or sizes_px, or use words=()."
      )
    for word in self.words:
      if not (word.isascii() and word.isalpha() and 1 <= len(word) <= 4):
        raise ValueError(f"word {word!r} must be 1 to 4 of the letters a-z.")


@dataclasses.dataclass(frozen=True)
class Object:
  """One object; the box is exclusive at bottom and right.

  Attributes:
    color, kind, texture: names.
    depth: 0 is nearest, 1 farthest; 0 for all on a grid.
    word: printed on it; "" for none.
    box_yxyx_px: y1 x1 y2 x2.
    box: the same on the 0..999 grid.
  """

  color: str
  kind: str
  texture: str
  depth: float
  word: str
  box_yxyx_px: tuple[int, int, int, int]
  box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
  """Objects from top to bottom, then left to right, of the boxes' corners."""

  objects: tuple[Object, ...]
  image_px: int


def sample_scene(rng: np.random.Generator, setting: Setting) -> Scene:
  """Draws a scene; equal generators give equal scenes."""
  low, high = setting.num_objects
  count = int(rng.integers(low, high + 1))
  boxes = _grid_boxes if setting.cells else _free_boxes
  objects = []
  for box, depth, kind, color, draws in boxes(rng, setting, count):
    word, texture = "", setting.textures[int(draws[1] * len(setting.textures))]
    if kind == SIGN:
      word = setting.words[int(draws[0] * len(setting.words))]
      texture = TEXTURES[0]  # A pattern would hide the letters.
    objects.append(
      Object(
        color=color,
        kind=kind,
        texture=texture,
        depth=depth,
        word=word,
        box_yxyx_px=box,
        box=grid_box(box, setting.image_px),
      )
    )
  order = tool.reading_order([o.box for o in objects])
  return Scene(tuple(objects[i] for i in order), setting.image_px)


@functools.lru_cache(maxsize=65536)
def grid_box(
  box_yxyx_px: tuple[int, int, int, int], image_px: int
) -> tuple[int, int, int, int]:
  """A pixel box on the 0..999 grid."""
  y1, x1, y2, x2 = (tool.to_grid(v, image_px) for v in box_yxyx_px)
  return y1, x1, y2, x2


def _names(setting, draws):
  color = setting.colors[int(draws[2] * len(setting.colors))]
  if setting.words and draws[3] < setting.sign_share:
    return SIGN, color
  return setting.kinds[int(draws[4] * len(setting.kinds))], color


def _grid_boxes(rng, setting, count):
  cells, cell_px = setting.cells, setting.image_px // setting.cells
  offsets, side = setting.offsets_px, setting.object_px
  chosen = rng.permutation(cells * cells)[:count].tolist()
  for cell, draws in zip(chosen, rng.random((count, 7)).tolist()):
    kind, color = _names(setting, draws)
    y = cell // cells * cell_px + offsets[int(draws[5] * len(offsets))]
    x = cell % cells * cell_px + offsets[int(draws[6] * len(offsets))]
    height = side // 2 if kind == SIGN else side
    yield (y, x, y + height, x + side), 0.0, kind, color, draws


def _free_boxes(rng, setting, count):
  """Places objects one by one; one that hides too much is drawn again."""
  far_px, near_px = setting.sizes_px
  placed = []
  for _ in range(20 * count):
    if len(placed) == count:
      break
    draws = rng.random(8).tolist()
    kind, color = _names(setting, draws)
    depth = round(draws[7], 3)
    side = round(near_px + (far_px - near_px) * depth)
    height = side // 2 if kind == SIGN else side
    y = int(draws[5] * (setting.image_px - height + 1))
    x = int(draws[6] * (setting.image_px - side + 1))
    new = (y, x, y + height, x + side), depth, kind, color, draws
    if _fits([*placed, new], setting.max_hidden_share):
      placed.append(new)
  return placed


def _fits(placed, max_hidden_share):
  """Whether each object shows enough, with no overlap of one colour."""
  for box, depth, kind, color, _ in placed:
    hidden = 0
    for other, other_depth, _, other_color, _ in placed:
      area = _overlap_px(box, other)
      if other is box or not area:
        continue
      if color == other_color or abs(depth - other_depth) < 0.05:
        return False
      if other_depth < depth:
        hidden += area
    limit = 0 if kind == SIGN else max_hidden_share
    if hidden > limit * (box[2] - box[0]) * (box[3] - box[1]):
      return False
  return True


def _overlap_px(a, b):
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  return max(0, height) * max(0, width)
