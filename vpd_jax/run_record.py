"""What made a run: resolved config, commit and versions, beside its output."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from vpd_jax.checkpoint import model_folder

PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)


# What a run may change when it goes on. It decides where it runs and what is
# written, not what is learnt (a mesh: but for rounding).
FREE = (
  "log_every_steps",
  "evaluators",
  "checkpoint",
  "distributed",
  "log",
  "profile",
  "sharding",
  "data_dir",
  "init",
  "input.cache",
  "input.num_threads",
  "input.num_workers",
)


def write(folder: pathlib.Path, config: Any, *, is_main: bool = True) -> None:
  """Writes `folder/config.json`, unless that is of another run.

  Args:
    folder: of the run; made if it is not there.
    config: an ml_collections.ConfigDict.
    is_main: False only compares: of several processes, one writes.

  Raises:
    ValueError: if a run with another config was started there; names what
      differs.
    OSError: if the folder cannot be made or written; names it.
  """
  resolved = json.loads(config.to_json_best_effort())
  inputs = _input_hashes(config)
  try:
    path = folder / "config.json"
    if path.exists():
      _check_same_run(path, resolved, inputs)
    if not is_main:
      return
    folder.mkdir(parents=True, exist_ok=True)
    record = {
      "config": resolved,
      "inputs": inputs,
      "commit": _commit(),
      "python": platform.python_version(),
      "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    replace_text(path, json.dumps(record, indent=2) + "\n")
  except OSError as e:
    raise OSError(
      f"cannot write the run's folder {folder}: {e.strerror or e}. Choose"
      " another --workdir, or make room there."
    ) from e


def _input_hashes(config) -> dict[str, str]:
  """sha256 of what a run reads: data manifests and initial weights.

  A folder's model.json has the digest of its weights.
  """
  paths = {
    f"data {name}": pathlib.Path(entry.dir) / "manifest.json"
    for name, entry in config.input.get("data", {}).items()
  }
  if config.init:
    init = pathlib.Path(config.init)
    paths["init"] = init / model_folder.NAME if init.is_dir() else init
  return {
    name: hashlib.sha256(path.read_bytes()).hexdigest()
    for name, path in paths.items()
    if path.exists()
  }


def _check_same_run(path, config, inputs) -> None:
  """Compares a run's record with a config that would go on with it."""
  record = json.loads(path.read_text())
  then = _flat(record["config"]) | _flat(record["inputs"], "sha256 of ")
  now = _flat(config) | _flat(inputs, "sha256 of ")
  # Where data and weights lie may change; what is in them may not.
  differ = [
    f"{key}: was {then.get(key)!r}, is {now.get(key)!r}"
    for key in sorted({*then, *now})
    if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    and not key.endswith(".dir")
    and then.get(key) != now.get(key)
  ]
  if differ:
    raise ValueError(
      f"{path.parent} holds a run with another config ({'; '.join(differ)})."
      " Give the same config to go on with it, or another --workdir."
    )


def _flat(tree, prefix="") -> dict[str, Any]:
  out = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      out |= _flat(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = value
  return out


def write_training(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Writes `folder/training.json`: that the run ended, and what it cost."""
  inputs = json.loads((folder / "config.json").read_text())["inputs"]
  facts = dict(facts) | {"init_sha256": inputs.get("init", "")}
  replace_text(folder / "training.json", json.dumps(facts, indent=2) + "\n")


def read_training(folder: pathlib.Path) -> dict[str, Any]:
  """Reads what `write_training` wrote.

  Raises:
    FileNotFoundError: if the run has not ended.
  """
  path = folder / "training.json"
  if not path.exists():
    raise FileNotFoundError(
      f"{folder} holds no finished training run. Run python -m vpd_jax.train"
      f" --workdir={folder} with the same config; it goes on where it was."
    )
  return json.loads(path.read_text())


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a file that is either the old one or the whole new one."""
  unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
  unfinished.write_text(text, encoding="utf-8")
  os.replace(unfinished, path)


def _commit() -> str:
  """The commit of the code; "" where it is not in a git checkout."""
  here = pathlib.Path(__file__).parent
  try:
    found = subprocess.run(
      ["git", "describe", "--always", "--dirty"],
      cwd=here,
      capture_output=True,
      text=True,
      check=False,
    )
  except FileNotFoundError:
    return ""
  return found.stdout.strip()
