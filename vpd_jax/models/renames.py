"""What a table of names says: ours, theirs, and how the axes differ.

Each family's `params.py` makes such tables; `vpd_jax.checkpoint.convert`
applies them in either direction:

    Rename("encoder/blocks/mlp/up/kernel", "layers.{}.wi.weight",
           Layout.TRANSPOSED, layers=12)

Letters beyond the common legend: I input width, O output width, C channels.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

CHANNELS = 3  # Of an image, so of what a patch projection reads.

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """theirs = ours, its axes split, then transposed.

  Attributes:
    split: our shape -> the same elements with some axes cut into several.
    order: of the split axes in theirs; None: as they are.
  """

  split: Callable[[Shape], Shape]
  order: tuple[int, ...] | None = None

  SAME: ClassVar["Layout"]
  # Ours [I, O], theirs [O, I].
  TRANSPOSED: ClassVar["Layout"]
  # Ours [side * side * C, O], theirs [O, C, side, side].
  PATCHES: ClassVar["Layout"]
  # Ours [side * side * C, O], theirs [side, side, C, O].
  PIXELS: ClassVar["Layout"]
  # Ours [...], theirs [1, ...].
  ONE_ROW: ClassVar["Layout"]

  @staticmethod
  def heads_in(heads: int) -> "Layout":
    """Ours [..., N * H], theirs [..., N, H]: kernels and biases of q, k, v."""
    return Layout(lambda s: (*s[:-1], heads, s[-1] // heads))

  @staticmethod
  def heads_out(heads: int) -> "Layout":
    """Ours [N * H, D], theirs [N, H, D]: the kernel after attention."""
    return Layout(lambda s: (heads, s[0] // heads, *s[1:]))

  @staticmethod
  def heads_first(heads: int) -> "Layout":
    """Ours [D, N * H], theirs [N, D, H]: q of an einsum of Gemma's."""
    return Layout(lambda s: (s[0], heads, s[1] // heads), (1, 0, 2))

  def in_row(self) -> "Layout":
    """Theirs with an axis of one in front, as each part of a joined array."""
    order = self.order and (0, *(axis + 1 for axis in self.order))
    return Layout(lambda s: (1, *self.split(s)), order)

  def their_shape(self, shape: Shape) -> Shape:
    """Shape that an array of our `shape` has in this layout."""
    split = self.split(tuple(shape))
    assert math.prod(split) == math.prod(shape), (split, shape)
    return tuple(split[axis] for axis in self._order(len(split)))

  def to_theirs(self, array: np.ndarray) -> np.ndarray:
    """Our array in this layout; a view where that is possible."""
    split = array.reshape(self.split(array.shape))
    return split.transpose(self._order(split.ndim))

  def to_ours(self, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Their array in our layout and `shape`; a view where possible."""
    return array.transpose(np.argsort(self._order(array.ndim))).reshape(shape)

  def read(
    self,
    read: Callable[[tuple[slice, ...]], np.ndarray],
    shape: Shape,
    index: tuple[slice, ...],
  ) -> np.ndarray:
    """Part of our array, from no more than what of theirs holds it.

    Args:
      read: index of theirs -> that part of theirs; slices without steps.
      shape: of ours, whole.
      index: the part of ours.
    """
    split = self.split(shape)
    wanted, widths, crops = [], [], []
    for group, part in zip(_groups(shape, split), index, strict=True):
      # An axis of ours is cut into an outer axis and what lies in one step.
      inner = math.prod(group[1:])
      low, high = part.start // inner, -(-part.stop // inner)
      wanted += [slice(low, high), *(slice(0, size) for size in group[1:])]
      widths.append((high - low) * inner)
      crops.append(slice(part.start - low * inner, part.stop - low * inner))
    theirs = read(tuple(wanted[axis] for axis in self._order(len(split))))
    return self.to_ours(theirs, tuple(widths))[tuple(crops)]

  def rows(self, shape: Shape) -> tuple[int, int]:
    """(axis, step): parts of ours that are whole rows of theirs."""
    split = self.split(shape)
    first = self._order(len(split))[0]
    end = 0
    for axis, group in enumerate(_groups(shape, split)):
      if first == end:
        return axis, math.prod(group[1:])
      end += len(group)
    raise NotImplementedError(f"no axis of ours is cut as theirs: {self}")

  def _order(self, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if self.order is None else self.order


def _patch_split(shape: Shape) -> Shape:
  side = math.isqrt(shape[0] // CHANNELS)
  return (side, side, CHANNELS, shape[1])


Layout.SAME = Layout(lambda s: s)
Layout.TRANSPOSED = Layout(lambda s: s, (1, 0))
Layout.PATCHES = Layout(_patch_split, (3, 2, 0, 1))
Layout.PIXELS = Layout(_patch_split)
Layout.ONE_ROW = Layout.SAME.in_row()


@dataclasses.dataclass(frozen=True)
class Rename:
  """One array of ours, and where it is in theirs.

  Attributes:
    name: ours.
    foreign: theirs. With "{}" for a layer's number where each layer has its
      own array; without, where `layers` is set, theirs are stacked too.
    layout: of one layer, if there are layers.
    layers: our first axis goes over them: how many, or their numbers.
    layers_axis: of theirs, where theirs are stacked.
    part: (index, count) where theirs is `count` of ours joined along their
      first axis (after `layers_axis`), as a fused q, k, v.
  """

  name: str
  foreign: str
  layout: Layout = Layout.SAME
  layers: int | Sequence[int] | None = None
  layers_axis: int = 0
  part: tuple[int, int] | None = None

  @property
  def is_stacked_there(self) -> bool:
    """Whether one array of theirs holds all layers."""
    return self.layers is not None and "{}" not in self.foreign

  def names(self) -> list[str]:
    """All of their names."""
    if self.layers is None or self.is_stacked_there:
      return [self.foreign]
    return [self.foreign.replace("{}", str(n)) for n in self.numbers()]

  def numbers(self) -> Sequence[int]:
    """Of the layers in our order."""
    assert self.layers is not None
    return range(self.layers) if isinstance(self.layers, int) else self.layers

  def our_layer(self, shape: Shape) -> Shape:
    """Shape of one layer of ours, of the whole where there are none."""
    return tuple(shape if self.layers is None else shape[1:])

  def their_shape(self, shape: Shape) -> Shape:
    """Shape of each array of theirs, from that of ours."""
    theirs = self.layout.their_shape(self.our_layer(shape))
    if self.part is not None:
      theirs = (theirs[0] * self.part[1], *theirs[1:])
    if self.is_stacked_there:
      axis = self.layers_axis
      theirs = (*theirs[:axis], len(self.numbers()), *theirs[axis:])
    return theirs


@dataclasses.dataclass(frozen=True)
class Table:
  """The names of one foreign model.

  Attributes:
    renames: every array of ours that it holds.
    prefix: in front of their names in some files, and in those we write.
    module_prefix: in front of the names of modules in transformers 5; None:
      as `prefix`.
    spellings: (pattern, replacement) by `re.sub`, in order, that turn names
      of other versions' files into those of `renames`.
    ignored: patterns of their names, matched in full, of parts that we do not
      have. May be in a file, never written.
    copies: their names, to the name each must equal where a file has both.
  """

  renames: tuple[Rename, ...]
  prefix: str = ""
  module_prefix: str | None = None
  spellings: tuple[tuple[str, str], ...] = ()
  ignored: tuple[str, ...] = ()
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _groups(shape: Shape, split: Shape) -> list[list[int]]:
  """Which axes of `split` make up each of `shape`."""
  if not shape:
    assert not split, split
    return []
  groups, rest = [], list(split)
  for size in shape:
    group = [rest.pop(0)]
    while math.prod(group) != size:
      group.append(rest.pop(0))
    groups.append(group)
  groups[-1] += rest
  assert math.prod(groups[-1]) == shape[-1], (shape, split)
  return groups
