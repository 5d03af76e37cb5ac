"""Folders of weights as Hugging Face's transformers has them.

A folder holds config.json and either model.safetensors or several files with
model.safetensors.index.json. `convert.py` turns what is found here into ours.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from vpd_jax.checkpoint import safetensors_file
from vpd_jax.checkpoint.source import Array

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
  """The folder's config.json, parsed.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is not a JSON object.
  """
  path = pathlib.Path(directory) / CONFIG
  if not path.is_file():
    raise FileNotFoundError(f"no {path}; expected a folder of transformers.")
  return read_json(path)


def scan(directory: str | os.PathLike) -> dict[str, Array]:
  """The arrays of a folder by name, of all its files. Reads headers only.

  Where there are both, the one file counts and not the index, as in
  transformers.

  Raises:
    FileNotFoundError: if there are no weights, or a file of the index is gone.
    ValueError: if a file is cut off or damaged, or is not what the index says.
  """
  directory = pathlib.Path(directory)
  if (directory / WEIGHTS).is_file():
    return safetensors_file.scan(directory / WEIGHTS)
  if not (directory / INDEX).is_file():
    raise FileNotFoundError(
      f"{directory} has neither {WEIGHTS} nor {INDEX}. Other formats, such"
      " as pytorch_model.bin, are not read."
    )
  found: dict[str, Array] = {}
  for path, names in _read_index(directory / INDEX).items():
    if not path.is_file():
      raise FileNotFoundError(f"no {path}, which {INDEX} names.")
    arrays = safetensors_file.scan(path)
    differ = [f"  {name}" for name in sorted(set(arrays) ^ names)]
    if differ:
      raise ValueError(
        f"{path} does not hold what {INDEX} says; {len(differ)} arrays are in"
        " one of them only. Fetch the folder again.\n" + "\n".join(differ)
      )
    found |= arrays
  return found


def write(
  directory: str | os.PathLike,
  config: Mapping[str, Any],
  arrays: Mapping[str, Array],
  *,
  config_name: str = CONFIG,
  dtype: np.dtype | None = None,
  shard_bytes: int = SHARD_BYTES,
  digest_key: str | None = None,
) -> None:
  """Writes a folder; it appears when complete. Holds one array at a time.

  Args:
    directory: must not exist, or be empty.
    config: becomes the file `config_name`.
    arrays: by name, in the order of the files.
    config_name: of the file.
    dtype: to write in; None: each array as it is.
    shard_bytes: where a file is full.
    digest_key: a field of the config that gets the SHA-256 of the arrays'
      files, one after the other.

  Raises:
    FileExistsError: if the folder holds something.
    ValueError: if a value is NaN or infinite.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and any(directory.iterdir()):
    raise FileExistsError(f"{directory} is not empty; name another folder.")
  unfinished = directory.with_name(f"{directory.name}.{os.getpid()}.part")
  unfinished.mkdir(parents=True)
  try:
    digest = _write_arrays(unfinished, arrays, dtype, shard_bytes)
    added = {digest_key: f"sha256:{digest}"} if digest_key else {}
    _write_json(unfinished / config_name, {**config, **added})
    unfinished.rename(directory)
  except BaseException:
    shutil.rmtree(unfinished)
    raise


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A file that must hold a JSON object; ValueError if it does not."""
  try:
    content = json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f"{path} is not JSON: {e}. Fetch it again.") from e
  if not isinstance(content, dict):
    raise ValueError(f"{path} holds no JSON object.")
  return content


def _read_index(path: pathlib.Path) -> dict[pathlib.Path, set[str]]:
  """Files that an index names, each with the arrays it must hold."""
  weight_map = read_json(path).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise ValueError(f"{path} has no weight_map, array -> file.")
  files: dict[pathlib.Path, set[str]] = {}
  for name, file in weight_map.items():
    if not isinstance(file, str) or file != pathlib.PurePath(file).name:
      raise ValueError(
        f"{path} puts {name} into {file!r}, which is not a file of the folder."
      )
    files.setdefault(path.parent / file, set()).add(name)
  return files


def _write_arrays(
  directory: pathlib.Path,
  arrays: Mapping[str, Array],
  dtype: np.dtype | None,
  shard_bytes: int,
) -> str:
  """Returns the SHA-256 of the files' bytes, one after the other."""
  digest = hashlib.sha256()
  shards = _plan(arrays, dtype, shard_bytes)
  weight_map: dict[str, str] = {}
  for number, names in enumerate(shards, start=1):
    file = WEIGHTS
    if len(shards) > 1:
      file = f"model-{number:05}-of-{len(shards):05}.safetensors"
    safetensors_file.write(
      directory / file,
      {name: arrays[name] for name in names},
      dtype,
      digest.update,
    )
    weight_map |= dict.fromkeys(names, file)
  if len(shards) > 1:
    total = sum(_size(array, dtype) for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / INDEX, index)
  return digest.hexdigest()


def _plan(
  arrays: Mapping[str, Array], dtype: np.dtype | None, shard_bytes: int
) -> list[list[str]]:
  """Cuts the arrays, in order, into files of at most so many bytes each."""
  shards: list[list[str]] = [[]]
  room = shard_bytes
  for name, array in arrays.items():
    size = _size(array, dtype)
    if shards[-1] and size > room:
      shards.append([])
      room = shard_bytes
    shards[-1].append(name)
    room -= size
  return shards


def _size(array: Array, dtype: np.dtype | None) -> int:
  return (
    array.nbytes
    // np.dtype(array.dtype).itemsize
    * (np.dtype(dtype or array.dtype).itemsize)
  )


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
