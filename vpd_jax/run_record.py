"""What made a run: resolved config, commit and versions, beside its output."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)


def write(folder: pathlib.Path, config: Any) -> None:
  """Writes `folder/config.json`.

  Args:
    folder: of the run; made if it is not there.
    config: an ml_collections.ConfigDict.

  Raises:
    OSError: if the folder cannot be made or written; names it.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
      "config": json.loads(config.to_json_best_effort()),
      "commit": _commit(),
      "python": platform.python_version(),
      "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    replace_text(folder / "config.json", json.dumps(record, indent=2) + "\n")
  except OSError as e:
    raise OSError(
      f"cannot write the run's folder {folder}: {e.strerror or e}. Choose"
      " another --workdir, or make room there."
    ) from e


def write_training(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Writes `folder/training.json`: that the run ended, and what it cost."""
  replace_text(
    folder / "training.json", json.dumps(dict(facts), indent=2) + "\n"
  )


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
