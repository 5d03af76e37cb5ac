"""Entry: a config's stages in order; goes on where it stopped.

    python -m data_gen.run --config=configs/data_gen/world.py --workdir=DIR
    python -m data_gen.run --config=... --workdir=DIR --config.num_workers=8

WORKDIR gets a folder for each stage: questions, programs, runs, choices,
rationales, examples (the TFRecords, with a card and a manifest). Run the same
command again after an interruption: finished shards are not made again.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LOCK_FILE = ".lock"
TIMINGS_FILE = "timings.json"
KEYS = (
  "name",
  "seed",
  "num_workers",
  "stages",
  "splits",
  "source",
  "questions",
  "llm",
  "sampling",
  "tools",
  "sandbox",
  "engine",
  "filter",
  "rationale",
  "writer",
  "max_drop_share",
  "reuse",
)
REUSABLE = ("questions", "programs", "runs")
_OVERRIDE = re.compile(r"--?(?:no)?config\.([\w.]+)")


def generate(
  config: Mapping[str, Any], workdir: str | os.PathLike
) -> dict[str, dict[str, Any]]:
  """Runs the stages of a config that are not finished yet.

  Args:
    config: plain values; see `configs/data_gen/world.py` for the keys.
    workdir: made if it is not there.

  Returns:
    stage -> content of its stage.json.

  Raises:
    ValueError, KeyError, FileNotFoundError: for what a user can mend; nothing
      that is finished is touched.
  """
  from data_gen import shard_files, stage, workers
  from data_gen.writers import manifest
  from vpd_jax import config_check

  config_check.check_names(config, KEYS)
  missing = {"name", "seed", "stages", "splits", "source"} - set(config)
  if missing:
    raise ValueError(f"the config lacks {sorted(missing)}.")
  config_check.check_names(
    config.get("max_drop_share", {}),
    [s.name for s in stage.STAGES],
    "config.max_drop_share.",
  )
  plans = stage.plan(config)
  workdir = pathlib.Path(workdir)
  _make_writable(workdir)
  with _lock(workdir / LOCK_FILE):
    if config.get("reuse"):
      _link(plans, pathlib.Path(config["reuse"]), workdir)
    for plan in plans:
      stage.check_folder(plan, workdir / plan.stage.name)
    shard_files.remove_temporaries(workdir)
    shard_files.write_json(
      workdir / "config.json",
      {"config": config, "versions": manifest.versions()},
    )
    contents = {}
    with workers.Pool(config, config.get("num_workers", 1)) as pool:
      for plan in plans:
        name = plan.stage.name
        folders = {n: workdir / n for n in (*plan.inputs, name)}
        start = time.monotonic()
        try:
          contents[name] = stage.run(plan, config, folders, pool)
        finally:
          _add_seconds(workdir, name, time.monotonic() - start)
  return contents


def table(contents: Mapping[str, Mapping[str, Any]]) -> str:
  """How many rows each stage got, how many have a result, and why not."""
  from data_gen import stage

  lines = [f"{'stage':<12}{'rows':>9}{'good':>9}{'share':>8}  why not"]
  for name, content in contents.items():
    counts = stage.tally(content)
    total, good = counts.total(), counts.pop("", 0)
    reasons = ", ".join(f"{r} {n}" for r, n in counts.most_common())
    share = f"{good / total:.1%}" if total else "-"
    lines.append(f"{name:<12}{total:>9}{good:>9}{share:>8}  {reasons}")
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  from data_gen.llm import client

  try:
    config, workdir = _parse(argv)
    contents = generate(config, workdir)
  except KeyboardInterrupt:
    print("\ninterrupted; run the same command to go on", file=sys.stderr)
    return 130
  except KeyError as e:
    print(f"error: {e.args[0]}", file=sys.stderr)
    return 1
  except (ValueError, OSError, client.LLMError, RuntimeError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  print(table(contents))
  if "examples" in contents:
    print(f"records and card: {pathlib.Path(workdir) / 'examples'}")
  return 0


def _parse(argv):
  """The config as plain values, and the workdir, from the command line."""
  from absl import flags

  values = _define(argv)
  try:
    rest = values(list(argv))
  except (flags.Error, OSError, AttributeError, KeyError, TypeError) as e:
    _check_overrides(argv)
    raise ValueError(_config_error(e)) from e
  if values["help"].value:
    print(__doc__)
    print(values.get_help())
    raise SystemExit(0)
  if rest[1:]:
    raise ValueError(f"unknown arguments {rest[1:]}; see --help.")
  if values["config"].value is None or values["workdir"].value is None:
    raise ValueError("give both --config and --workdir; see --help.")
  return values["config"].value.to_dict(), values["workdir"].value


def _define(argv):
  from absl import flags
  from ml_collections import config_flags

  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, such as configs/data_gen/world.py:size=tiny; one value of it"
    " is --config.key=value.",
    flag_values=values,
    sys_argv=list(argv),
  )
  flags.DEFINE_string(
    "workdir", None, "Folder for everything that is made.", flag_values=values
  )
  flags.DEFINE_bool("help", False, "Shows this.", flag_values=values)
  return values


def _check_overrides(argv: Sequence[str]) -> None:
  """Raises ValueError for an override of a key that the config lacks."""
  from absl import flags

  from vpd_jax import spelling

  matches = [_OVERRIDE.match(a) for a in argv]
  rest = [a for a, match in zip(argv, matches) if match is None]
  values = _define(rest)
  try:
    values(rest)
  except (flags.Error, OSError, AttributeError, KeyError, TypeError):
    return  # Something else is wrong as well, and is said first.
  if values["config"].value is None:
    return  # Likewise: there is no --config.
  config = values["config"].value.to_dict()
  for override in filter(None, matches):
    section, path = config, "--config"
    for key in override[1].split("."):
      if not isinstance(section, Mapping) or key not in section:
        known = sorted(section) if isinstance(section, Mapping) else []
        hint = spelling.hint(key, known, f"{path}.")
        raise ValueError(
          f"{path}.{key} is not in the config file.{hint} {path} has:"
          f" {', '.join(known) or 'no parts'}."
        )
      section, path = section[key], f"{path}.{key}"


def _config_error(error: Exception) -> str:
  """One line about a bad flag, config file or override."""
  text = str(error.args[0] if error.args else error)
  if "Traceback" in text:
    text = text[: text.index(":")] + ": " + text.strip().splitlines()[-1]
  return " ".join(text.replace("\\n", " ").replace("\\", "").split())


def _make_writable(workdir: pathlib.Path) -> None:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f".{LOCK_FILE}.tmp-{os.getpid()}"
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise ValueError(
      f"--workdir={workdir} cannot be written to ({e.strerror}); choose"
      " another folder."
    ) from e


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
  """Holds the workdir for one run; the kernel lets go of it if we die."""
  with path.open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise ValueError(
        f"{path.parent} is in use by another run; wait for it, or choose"
        " another --workdir."
      ) from e
    yield


def _link(plans, source: pathlib.Path, workdir: pathlib.Path) -> None:
  """Makes the first stages links to another workdir's finished ones."""
  from data_gen import stage

  for plan in plans:
    name = plan.stage.name
    target, link = source / name, workdir / name
    if name not in REUSABLE:
      continue
    stage.check_folder(plan, target)
    stage.read(target)
    if not link.is_symlink() and not link.exists():
      link.symlink_to(target.resolve(), target_is_directory=True)


def _add_seconds(workdir: pathlib.Path, name: str, seconds: float) -> None:
  """Adds to the stage's wall time over all runs, interrupted ones too."""
  from data_gen import shard_files

  path = workdir / TIMINGS_FILE
  timings = json.loads(path.read_text()) if path.exists() else {}
  timings[name] = round(timings.get(name, 0.0) + seconds, 2)
  shard_files.write_json(path, timings)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
