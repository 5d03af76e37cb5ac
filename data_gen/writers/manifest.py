"""Writes what is in a data set and where it came from: manifest and card.

Nothing here depends on the clock or the number of workers: on one host, equal
configs give equal bytes. What the manifest says about the host is what the
records may depend on: package versions, and the kernel's layers that were in
force while programs ran.
"""

import hashlib
import importlib.metadata
import pathlib
import platform
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_gen import shard_files, stage
from data_gen.writers import tfds_folder
from vpd_jax import __version__
from vpd_jax.input import schema

PACKAGES = ("numpy", "scipy", "pillow", "protobuf", "google-crc32c")


def write(
  config: Mapping[str, Any],
  folders: Mapping[str, pathlib.Path],
  content: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes manifest.json, README.md and the tensorflow-datasets files.

  Args:
    config: plain values.
    folders: of the stages that the examples were made from, and of these.
    content: of the examples' stage.json.

  Returns:
    The manifest.
  """
  folder = folders["examples"]
  stages: dict[str, Mapping[str, Any]] = {
    name: stage.read(path)
    for name, path in folders.items()
    if name != "examples"
  }
  stages["examples"] = content
  manifest = {
    "name": config["name"],
    "schema_version": schema.VERSION,
    "digest": content["digest"],
    "digests": {name: s["digest"] for name, s in stages.items()},
    "versions": versions(),
    "sandbox": _sandbox(stages),
    "llm": config.get("llm", {}),
    "splits": {
      split: _split(split, folder, stages) for split in config["splits"]
    },
  }
  shard_files.write_json(folder / "manifest.json", manifest)
  shard_files.write_text(folder / "README.md", card(manifest))
  tfds_folder.write(
    folder,
    config["name"],
    f"Questions about images with rationales ({config['name']}).",
    {
      name: [(s["examples"], s["bytes"]) for s in split["shards"].values()]
      for name, split in manifest["splits"].items()
    },
  )
  return manifest


def versions() -> dict[str, str]:
  """Versions of what the data's bytes may depend on."""
  found = {"python": platform.python_version(), "vpd_jax": __version__}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = "absent"
  return found


def card(manifest: Mapping[str, Any]) -> str:
  """The data set's card, in Markdown."""
  lines = [
    f"# Data set {manifest['name']}",
    "",
    "Questions about images, with answers, and rationales made from the traces",
    "of programs (Visual Program Distillation, arXiv:2312.03052). One record is",
    "one question; fields are those of `vpd_jax/input/schema.py`, version",
    f"{manifest['schema_version']}. Made by `python -m data_gen.run`; the whole",
    "of what decided it is in `stage.json`, counts and hashes in",
    "`manifest.json`.",
    "",
    "| split | questions | examples | with rationale | dropped |",
    "|---|---|---|---|---|",
  ]
  for name, split in manifest["splits"].items():
    lost = Counter(split["yields"]["questions"]["reasons"])
    lost.update(split["yields"]["examples"]["reasons"])
    reasons = ", ".join(f"{r}: {n}" for r, n in sorted(lost.items())) or "0"
    lines.append(
      f"| {name} | {split['yields']['questions']['total']} |"
      f" {split['examples']} | {split['with_rationale']} | {reasons} |"
    )
  lines += [
    "",
    "Boxes are `y1 x1 y2 x2` on a 0..999 grid, each axis scaled by its own",
    "image side, origin at the top left. An example without a rationale is one",
    "for which no sampled program gave the label's answer. Rationales are",
    "checked against their trace, not against the picture: what a tool saw",
    "wrong is wrong in them too.",
    "",
    "## Fields",
    "",
    "| field | kind | meaning |",
    "|---|---|---|",
    *(f"| {f.name} | {f.kind} | {f.doc} |" for f in schema.FIELDS),
    "",
    "## Why rows have no rationale, or were dropped",
    "",
    "| split | stage | total | good | reasons |",
    "|---|---|---|---|---|",
  ]
  for name, split in manifest["splits"].items():
    for stage_name, y in split["yields"].items():
      reasons = ", ".join(f"{r}: {n}" for r, n in sorted(y["reasons"].items()))
      lines.append(
        f"| {name} | {stage_name} | {y['total']} | {y['good']} | {reasons} |"
      )
  return "\n".join(lines) + "\n"


def _split(split, folder, stages) -> dict[str, Any]:
  shards = {}
  families: dict[str, Counter] = {}
  with_rationale = 0
  for shard, record in stages["examples"]["shards"].items():
    if shard.rsplit("-", 3)[0] != split:
      continue
    ((name, size),) = record["files"].items()
    shards[name] = {
      "examples": record["num_examples"],
      "with_rationale": record["num_rationales"],
      "bytes": size,
      "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
    }
    with_rationale += record["num_rationales"]
    for family, reasons in record["tallies"].items():
      families.setdefault(family, Counter()).update(reasons)
  return {
    "examples": sum(s["examples"] for s in shards.values()),
    "with_rationale": with_rationale,
    "families": {f: c[""] for f, c in sorted(families.items()) if c[""]},
    "yields": {
      name: yields(stage.tally(content, split))
      for name, content in stages.items()
    },
    "shards": shards,
  }


def yields(counts: Counter) -> dict[str, Any]:
  """A tally as total = good + the sum of the reasons."""
  reasons = {name: n for name, n in sorted(counts.items()) if name}
  return {"total": counts.total(), "good": counts[""], "reasons": reasons}


def _sandbox(stages) -> dict[str, Any]:
  """Layers in force while programs ran; {} if none ran."""
  layers = {}
  for record in stages.get("runs", {"shards": {}})["shards"].values():
    layers |= record["sandbox"]
  return layers
