"""Tables of learned positions, made for one grid of patches, for another.

    table_PD = resize.positions(table_PD, (16, 16), (32, 32), "bicubic")

Every method is linear and works on each axis by itself: one constant matrix
[O, I] per axis, so the result is exact, differentiable and free to compile.
Which method is right is said by the reference that a checkpoint comes from.

Letters beyond the common legend: I rows or columns before, O after.
"""

import types
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Method = Callable[[int, int], np.ndarray]


def positions(
  table_PD: jax.Array,
  grid_from: tuple[int, int],
  grid_to: tuple[int, int],
  method: str,
) -> jax.Array:
  """Resizes a table of positions; what is no patch's (a class token) is not.

  Args:
    table_PD: float[P, D], in reading order of the grid.
    grid_from, grid_to: (rows, columns) of patches before and after.
    method: a name of METHODS.

  Returns:
    float[P', D], of the table's dtype; computed in float32.

  Raises:
    ValueError: if the method is unknown, the table is not of that grid, or a
      grid is empty.
  """
  rows, columns = grid_from
  if table_PD.shape[0] != rows * columns:
    raise ValueError(
      f"a table of {table_PD.shape[0]} positions is not of a grid of {rows} x"
      f" {columns} patches. A class token's row is kept apart."
    )
  table_IJD = table_PD.astype(jnp.float32).reshape(rows, columns, -1)
  resized_OQD = jnp.einsum(
    "OI,QJ,IJD->OQD",
    weights(rows, grid_to[0], method).astype(np.float32),
    weights(columns, grid_to[1], method).astype(np.float32),
    table_IJD,
    precision=jax.lax.Precision.HIGHEST,
  )
  return resized_OQD.reshape(-1, table_PD.shape[1]).astype(table_PD.dtype)


def weights(size_from: int, size_to: int, method: str) -> np.ndarray:
  """float64[size_to, size_from]: what each new point takes of each old one.

  Raises:
    ValueError: as `positions`.
  """
  if method not in METHODS:
    raise ValueError(f"method={method!r} is not one of {list(METHODS)}.")
  if size_from < 1 or size_to < 1:
    raise ValueError(f"cannot resize a side of {size_from} to {size_to}.")
  return METHODS[method](size_from, size_to)


def _bicubic(size_from: int, size_to: int) -> np.ndarray:
  """Four neighbours, also where it shrinks; the edge is repeated."""
  centres_O = _centres(size_from, size_to)
  result = np.zeros((size_to, size_from))
  for offset in (-1, 0, 1, 2):
    index_O = np.floor(centres_O).astype(int) + offset
    inside_O = np.clip(index_O, 0, size_from - 1)
    taken_O = _cubic(centres_O - index_O, -0.75)
    np.add.at(result, (np.arange(size_to), inside_O), taken_O)
  return result


def _antialiased(
  size_from: int, size_to: int, kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """A kernel as wide as what a new point covers; nothing beyond the edge."""
  covered = max(size_from / size_to, 1.0)
  distance_OI = np.arange(size_from) - _centres(size_from, size_to)[:, None]
  result = kernel(distance_OI / covered)
  return result / result.sum(axis=1, keepdims=True)


def _bilinear_corners(size_from: int, size_to: int) -> np.ndarray:
  """Two neighbours; the first and last points of both grids coincide."""
  step = (size_from - 1) / (size_to - 1) if size_to > 1 else 0.0
  distance_OI = np.arange(size_from) - np.arange(size_to)[:, None] * step
  return _triangle(distance_OI)


def _centres(size_from: int, size_to: int) -> np.ndarray:
  """Where new points lie among the old ones, both in the middle of a cell."""
  return (np.arange(size_to) + 0.5) * size_from / size_to - 0.5


def _triangle(x: np.ndarray) -> np.ndarray:
  return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys's kernel. Source: Keys, IEEE TASSP 29(6), 1981, with slope a at 1."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


# torch's interpolate(align_corners=False) has the first three, the middle two
# with antialias=True; its cubic kernels have different slopes. The last is
# scipy.ndimage.zoom(order=1), with which big_vision's fixed ViT is resized.
METHODS: Mapping[str, Method] = types.MappingProxyType(
  {
    "bicubic": _bicubic,
    "bicubic_antialias": lambda i, o: _antialiased(
      i, o, lambda x: _cubic(x, -0.5)
    ),
    "bilinear_antialias": lambda i, o: _antialiased(i, o, _triangle),
    "bilinear_corners": _bilinear_corners,
  }
)
