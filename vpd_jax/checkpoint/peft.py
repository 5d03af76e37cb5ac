"""Low-rank updates as adapters of Hugging Face's peft, out and in.

A folder holds adapter_config.json and adapter_model.safetensors:

    base_model.model.MODULE.lora_A.weight   [R, I]
    base_model.model.MODULE.lora_B.weight   [O, R]

MODULE is what transformers calls the projection, so the family's table of
names says it. A model that transformers has in parts (a PaLI) has an adapter
for each of them.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import types
from collections.abc import Mapping
from typing import Any

import jax

from vpd_jax.checkpoint import convert, hf, safetensors_file
from vpd_jax.checkpoint.source import Array
from vpd_jax.models import hf_fields, lora, renames

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WRAPPER = "base_model.model."
_ENDS: Mapping[str, str] = types.MappingProxyType(
  {"a": ".lora_A.weight", "b": ".lora_B.weight"}
)
# What changes how an update is computed, and the values that we compute.
_PLAIN: Mapping[str, tuple[Any, ...]] = types.MappingProxyType(
  {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "target_parameters": ([], None),
    "trainable_token_indices": ([], {}, None),
    # Others change the base model's weights, which are then not in the file.
    "init_lora_weights": (True, False, None, "gaussian"),
  }
)
# What says where updates are, which the arrays say too, or whose they are. Any
# other field, of whatever version of peft, must be empty.
_FREE = frozenset(
  (
    *("r", "lora_alpha", "lora_dropout", "task_type", "auto_mapping"),
    *("base_model_name_or_path", "revision", "peft_version", "inference_mode"),
    *("target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern"),
    # Of what is off: their defaults are not empty.
    *("megatron_core", "qalora_group_size", "loftq_config"),
  )
)


@dataclasses.dataclass(frozen=True)
class Adapter:
  """What a folder holds.

  Attributes:
    options: keyword arguments of `lora.add`.
    arrays: our name of an update's array -> Array, not read yet.
  """

  options: dict[str, Any]
  arrays: dict[str, Array]


def write(
  directory: str | os.PathLike,
  arrays: Mapping[str, Array],
  base: renames.Table,
  *,
  alpha: float,
  dropout: float = 0.0,
  prefix: str | None = None,
  base_model: str = "",
  task_type: str | None = None,
) -> None:
  """Writes a folder that peft loads; it appears when complete.

  Args:
    directory: must not exist, or be empty.
    arrays: our name -> Array of every array of the updates, and no others.
    base: the table of the transformers model that is adapted.
    alpha, dropout: of the updates, see `lora.add`.
    prefix: in front of that model's names of its modules; None: as
      transformers 5 has them. A SiglipVisionModel of transformers 4 has
      "vision_model.".
    base_model: name or path of that model, for whoever loads the adapter.
    task_type: such as "SEQ_2_SEQ_LM", where peft is to wrap it so.

  Raises:
    FileExistsError: if the folder holds something.
    ValueError: if an array is no update's, ranks differ, or a projection has
      no counterpart of its own in that model; lists all.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and any(directory.iterdir()):
    raise FileExistsError(f"{directory} is not empty; name another folder.")
  if prefix is None:
    prefix = base.module_prefix
  if prefix is not None:
    base = dataclasses.replace(base, prefix=prefix)
  table = _table(arrays, base)
  ranks = {x.shape[-1] for n, x in arrays.items() if n.endswith("/a")}
  if len(ranks) != 1:
    raise ValueError(f"updates of ranks {sorted(ranks)}: an adapter has one.")
  foreign = convert.theirs(arrays, table)
  modules = {n.removeprefix(_WRAPPER).rsplit(".lora_", 1)[0] for n in foreign}
  config = {
    "peft_type": "LORA",
    "task_type": task_type,
    "base_model_name_or_path": base_model,
    "r": ranks.pop(),
    "lora_alpha": alpha,
    "lora_dropout": dropout,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "target_modules": sorted(modules),
  }
  unfinished = directory.with_name(f"{directory.name}.{os.getpid()}.part")
  unfinished.mkdir(parents=True)
  try:
    text = json.dumps(config, indent=2, sort_keys=True)
    (unfinished / CONFIG).write_text(text + "\n")
    safetensors_file.write(unfinished / WEIGHTS, foreign)
    unfinished.rename(directory)
  except BaseException:
    shutil.rmtree(unfinished)
    raise


def read(
  directory: str | os.PathLike,
  base: renames.Table,
  shapes: Mapping[str, Any],
) -> Adapter:
  """Reads a folder that peft wrote, or `write` did. Reads headers only.

  Args:
    directory: of the adapter.
    base: the table of the transformers model that it adapts.
    shapes: our name -> anything with a shape, of the model's arrays.

  Raises:
    FileNotFoundError: if it is no folder of peft.
    ValueError: if it does what we do not compute, or does not fit the model;
      lists all names.
  """
  directory = pathlib.Path(directory)
  for name in (CONFIG, WEIGHTS):
    if not (directory / name).is_file():
      raise FileNotFoundError(f"no {directory / name}; expected peft's folder.")
  config = hf.read_json(directory / CONFIG)
  _check_plain(directory / CONFIG, config)
  rank = config["r"]
  source = _spelled(safetensors_file.scan(directory / WEIGHTS), base)
  expected = {}
  for rename in base.renames:
    if _refusal(rename) or not _modules(rename, "a") & set(source):
      continue
    *stack, width_in, width_out = shapes[rename.name].shape
    name = rename.name.removesuffix("kernel") + "lora/"
    for end, shape in (("a", (width_in, rank)), ("b", (rank, width_out))):
      expected[name + end] = jax.ShapeDtypeStruct((*stack, *shape), "float32")
  table = dataclasses.replace(_table(expected, base), prefix="")
  arrays = convert.ours(source, table, expected, directory)
  paths = {name.rsplit("/lora/", 1)[0] for name in expected}
  options = {
    "patterns": tuple(f"{re.escape(path)}$" for path in sorted(paths)),
    "rank": rank,
    "alpha": float(config["lora_alpha"]),
    "dropout": float(config.get("lora_dropout") or 0.0),
  }
  return Adapter(options, arrays)


def fits(directory: str | os.PathLike, base: renames.Table) -> bool:
  """Whether an adapter's folder adapts a module that the table has."""
  source = safetensors_file.scan(pathlib.Path(directory) / WEIGHTS)
  known = {name for rename in base.renames for name in _modules(rename, "a")}
  return bool(known & set(_spelled(source, base)))


def _table(updates: Mapping[str, Any], base: renames.Table) -> renames.Table:
  """Names of the updates' arrays, from those of their kernels."""
  kernels = {rename.name: rename for rename in base.renames}
  found, lines = [], []
  for name in updates:
    path, _, end = name.rpartition("/lora/")
    if not lora.is_update(name):
      lines.append(f"  {name} is no low-rank update.")
      continue
    kernel = kernels.get(f"{path}/kernel")
    if kernel is None:
      lines.append(f"  {name}: the model that is adapted has no {path}.")
    elif _refusal(kernel):
      lines.append(f"  {name}: {kernel.foreign} there {_refusal(kernel)}.")
    else:
      foreign = kernel.foreign.removesuffix(".weight") + _ENDS[end]
      layout = renames.Layout.TRANSPOSED
      found.append(renames.Rename(name, foreign, layout, layers=kernel.layers))
  if lines:
    raise ValueError(
      f"{len(lines)} arrays have no place in an adapter:\n" + "\n".join(lines)
    )
  return renames.Table(tuple(found), prefix=_WRAPPER + base.prefix)


def _refusal(kernel: renames.Rename) -> str:
  """Why peft has no adapter for one of our kernels alone; "" if it has."""
  if not kernel.name.endswith("/kernel"):
    return "is no projection"
  if kernel.part is not None:
    return f"is {kernel.part[1]} projections in one"
  if kernel.layout is not renames.Layout.TRANSPOSED or kernel.is_stacked_there:
    return "is no torch.nn.Linear"
  return ""


def _modules(kernel: renames.Rename, end: str) -> set[str]:
  return {n.removesuffix(".weight") + _ENDS[end] for n in kernel.names()}


def _spelled(
  source: Mapping[str, Array], base: renames.Table
) -> dict[str, Array]:
  """The source with names as the base's table has them, without prefixes."""
  names = {name: name.removeprefix(_WRAPPER) for name in source}
  if any(name.startswith(base.prefix) for name in names.values()):
    names = {k: name.removeprefix(base.prefix) for k, name in names.items()}
  for pattern, replacement in base.spellings:
    names = {k: re.sub(pattern, replacement, n) for k, n in names.items()}
  return {names[name]: array for name, array in source.items()}


def _check_plain(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  lines = [
    f"  {key} is {config[key]!r}"
    for key, plain in _PLAIN.items()
    if key in config and config[key] not in plain
  ]
  lines += [
    f"  {key} is {value!r}"
    for key, value in config.items()
    if key not in _PLAIN and key not in _FREE and value
  ]
  rank, alpha = config.get("r"), config.get("lora_alpha")
  dropout = config.get("lora_dropout") or 0.0
  if type(rank) is not int or rank < 1:
    lines.append(f"  r is {rank!r}")
  if not hf_fields.is_positive(alpha):
    lines.append(f"  lora_alpha is {alpha!r}")
  if dropout != 0 and not (hf_fields.is_positive(dropout) and dropout < 1):
    lines.append(f"  lora_dropout is {dropout!r}")
  if lines:
    raise ValueError(
      f"{path} is of an adapter that is not computed here:\n" + "\n".join(lines)
    )
