"""Our own folder of a model: model.json and its arrays under our names.

    DIR/model.json           {"format": 1, "family": "pali",
                              "class": "model.Model", "options": {...},
                              "digest": "sha256:...", "image": {...}}
    DIR/model.safetensors    or several, with model.safetensors.index.json

Repeated blocks are one array with a leading axis of layers, whatever the model
was when it was saved: scanned or unrolled, on one device or on many. "digest"
is of the bytes of the safetensors, in order: who knows model.json knows which
weights these are. "image" says how pictures were resized for them.
"""

import dataclasses
import os
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from vpd_jax import config_check, trees
from vpd_jax.checkpoint import convert, hf
from vpd_jax.checkpoint.source import Array
from vpd_jax.models import renames

NAME = "model.json"
FORMAT = 1
MODEL = "model.Model"
DIGEST = "digest"
# Of "image": a kernel of `input.images.KERNELS`, and the side that pictures are
# resized to, where patches do not fill it and the model sees less.
IMAGE_KEYS = ("kernel", "resize_px")


@dataclasses.dataclass(frozen=True)
class Saved:
  """What a folder holds.

  Attributes:
    directory: of it.
    family: a folder of `vpd_jax.models`.
    cls: module and class there.
    options: keyword arguments of the class.
    arrays: our name -> Array, not read yet.
    image: how pictures are resized, see IMAGE_KEYS; what nobody said is not
      there.
  """

  directory: pathlib.Path
  family: str
  cls: str
  options: dict[str, Any]
  arrays: dict[str, Array]
  image: dict[str, Any]


def is_one(directory: str | os.PathLike) -> bool:
  """Whether there is a model of ours."""
  return (pathlib.Path(directory) / NAME).is_file()


def read(directory: str | os.PathLike) -> Saved:
  """Reads model.json and the headers of the arrays.

  Raises:
    FileNotFoundError: if it is no folder of ours.
    ValueError: if it is damaged or of a newer format.
  """
  directory = pathlib.Path(directory)
  if not is_one(directory):
    raise FileNotFoundError(
      f"no {directory / NAME}; expected a folder that vpd_jax.convert made."
      " Another project's folder is hf:DIR or big_vision:FILE."
    )
  about = hf.read_json(directory / NAME)
  if about.get("format") != FORMAT:
    raise ValueError(
      f"{directory / NAME} has format {about.get('format')!r}; this version"
      f" of vpd_jax reads {FORMAT}."
    )
  kinds = {"family": str, "class": str, "options": dict, "image": dict}
  kinds |= {DIGEST: str}
  wrong = [n for n, kind in kinds.items() if not isinstance(about.get(n), kind)]
  if wrong:
    raise ValueError(
      f"{directory / NAME} lacks {', '.join(wrong)}. Make it again."
    )
  family, cls, options, image, _ = (about[name] for name in kinds)
  config_check.check_names(image, IMAGE_KEYS, f"{directory / NAME} image.")
  return Saved(directory, family, cls, options, hf.scan(directory), image)


def write(
  directory: str | os.PathLike,
  family: str,
  options: Mapping[str, Any],
  arrays: Mapping[str, Array],
  dtype: np.dtype | None = None,
  cls: str = MODEL,
  *,
  image: Mapping[str, Any] = types.MappingProxyType({}),
  step: int | None = None,
) -> None:
  """Writes a folder; it appears when complete. Holds pieces of arrays only.

  Args:
    directory: must not exist, or be empty.
    family: a folder of `vpd_jax.models`.
    options: keyword arguments of its class; plain values.
    arrays: our name -> Array, such as `convert.in_memory(x, name)`.
    dtype: to write in; None: each array as it is.
    cls: module and class of the family.
    image: how pictures are resized, see IMAGE_KEYS.
    step: of the run that the weights are of, for whoever looks.

  Raises:
    FileExistsError: if the folder holds something.
    ValueError: if a value is NaN or infinite.
  """
  about: dict[str, Any] = {"format": FORMAT, "family": family, "class": cls}
  about |= {"options": dict(options), "image": dict(image)}
  about |= {} if step is None else {"step": step}
  hf.write(
    directory, about, arrays, config_name=NAME, dtype=dtype, digest_key=DIGEST
  )


def load(
  directory: str | os.PathLike,
  abstract_params: Any,
  axes: Mapping[str, tuple[str | None, ...]] | None = None,
  *,
  is_checked_first: bool = True,
  then: Callable[[str, Any], Any] | None = None,
) -> Any:
  """Reads a folder's arrays straight into their shardings.

  Args:
    directory: of the model.
    abstract_params: tree of ShapeDtypeStructs with shardings.
    axes: our name -> logical axes, from `axes_of`, for messages.
    is_checked_first: read all values once, before anything is put on a
      device, to see that they are finite; else that is seen while loading.
    then: (our name, array) -> what is kept of it, see `convert.load`.

  Returns:
    A tree like `abstract_params` of jax.Arrays of its dtypes and shardings.

  Raises:
    FileNotFoundError: if it is no folder of ours.
    ValueError: if it is damaged, or of another model; lists all names and
      shapes that differ. If a value is NaN or infinite.
  """
  saved = read(directory)
  expected = trees.flatten_with_names(abstract_params)
  table = identity(expected)
  found = convert.ours(saved.arrays, table, expected, directory, axes)
  if is_checked_first:
    convert.check_finite(found.values(), directory)
  arrays = convert.load(found, expected, then)
  return trees.unflatten_like(abstract_params, arrays)


def axes_of(params: nnx.State) -> dict[str, tuple[str | None, ...]]:
  """Our name -> logical axes of each parameter."""
  return {
    "/".join(map(str, path)): variable.get_metadata()["axes"]
    for path, variable in nnx.to_flat_state(params)
  }


def identity(names: Mapping[str, Any]) -> renames.Table:
  """The table of files that have our own names."""
  return renames.Table(tuple(renames.Rename(name, name) for name in names))
