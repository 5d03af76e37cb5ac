"""The loop of every stage: what is finished stays, the rest is made.

A stage is a folder of the workdir, and a module with

    def check(config) -> dict       # its part of the config, before anything
                                    # runs; returns what else decides its
                                    # output, such as the hash of a prompt
    class Worker:
      def __init__(self, config)    # opens tools, clients, prompts
      def run(self, shard, folders, out)  # reads folders, writes `out`
      def close(self)
    def finish(config, folders, digest)   # optional: when all shards are there

Shards are independent of each other, so any number of processes gives the
same bytes. `stage.json` holds the hash of all that decides a stage's output,
the stages that it reads included; another config is refused, not mixed in.
"""

import dataclasses
import hashlib
import importlib
import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_gen import progress, shard_files, workers

STAGE_FILE = "stage.json"
_MIN_ROWS_TO_STOP = 200


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage's declaration.

  Attributes:
    name: its folder in the workdir.
    module: the module that does it.
    needs: stages that it reads.
    may_use: stages that it reads if the config runs them.
    sections: parts of the config that decide its output.
    requires: those of them that every config must have.
    row_for: the input with a row for each of its own, or for each
      `rows_per_input` of them that its `check` gives; "" if unknown.
    max_drop_share: share of rows without a result above which it stops.
  """

  name: str
  module: str
  needs: tuple[str, ...]
  sections: tuple[str, ...]
  requires: tuple[str, ...] = ()
  may_use: tuple[str, ...] = ()
  row_for: str = ""
  max_drop_share: float = 1.0


STAGES = (
  Stage(
    name="questions",
    module="data_gen.questions",
    needs=(),
    sections=("name", "seed", "splits", "source", "questions"),
    max_drop_share=0.1,
  ),
  Stage(
    name="programs",
    module="data_gen.programs.sample",
    needs=("questions",),
    sections=("seed", "llm", "sampling"),
    requires=("llm",),
    row_for="questions",
  ),
  Stage(
    name="runs",
    module="data_gen.programs.execute",
    needs=("questions", "programs"),
    sections=("tools", "sandbox"),
    requires=("tools",),
    row_for="programs",
    max_drop_share=0.95,
  ),
  Stage(
    name="choices",
    module="data_gen.filter.answers",
    needs=("questions", "programs", "runs"),
    sections=("filter",),
    row_for="questions",
    max_drop_share=0.95,
  ),
  Stage(
    name="rationales",
    module="data_gen.rationale.rewrite",
    needs=("questions", "programs", "runs", "choices"),
    sections=("rationale",),
    row_for="questions",
    max_drop_share=0.95,
  ),
  Stage(
    name="examples",
    module="data_gen.writers.tfrecord",
    needs=("questions",),
    may_use=("programs", "runs", "choices", "rationales"),
    sections=("name", "writer"),
    row_for="questions",
    max_drop_share=0.1,
  ),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A stage as one config runs it.

  Attributes:
    stage: the declaration.
    inputs: names of the stages that it reads.
    decides: all that decides its output, as plain values.
    digest: their hash.
  """

  stage: Stage
  inputs: tuple[str, ...]
  decides: Mapping[str, Any]
  digest: str


def plan(config: Mapping[str, Any]) -> list[Plan]:
  """Checks a config and says what its stages depend on, in running order.

  Raises:
    ValueError: for an unknown stage, one without its inputs, or whatever a
      stage's `check` finds.
  """
  wanted = tuple(config["stages"])
  known = [stage.name for stage in STAGES]
  unknown = [name for name in wanted if name not in known]
  if unknown:
    raise ValueError(f"config.stages has no stages {unknown}; it has: {known}.")
  plans: dict[str, Plan] = {}
  for stage in STAGES:
    if stage.name not in wanted:
      continue
    missing = [name for name in stage.needs if name not in wanted]
    if missing:
      raise ValueError(
        f"config.stages has {stage.name!r} but not {missing}, which it reads;"
        " add them (a finished stage is not run again)."
      )
    absent = [name for name in stage.requires if not config.get(name)]
    if absent:
      raise ValueError(
        f"the config lacks the sections {absent}, which the stage"
        f" {stage.name!r} needs."
      )
    inputs = stage.needs + tuple(n for n in stage.may_use if n in wanted)
    facts = importlib.import_module(stage.module).check(config)
    decides = _plain(
      {
        "config": {name: config.get(name) for name in stage.sections},
        "facts": facts,
        "inputs": {name: plans[name].digest for name in inputs},
      }
    )
    plans[stage.name] = Plan(stage, inputs, decides, _digest(decides))
  return list(plans.values())


def check_folder(plan: Plan, folder: pathlib.Path) -> None:
  """Refuses a stage's folder in which another config made a shard.

  Raises:
    ValueError: naming what differs.
  """
  path = folder / STAGE_FILE
  if not path.exists() or not shard_files.has_records(folder):
    return
  found = json.loads(path.read_text())
  if found["digest"] == plan.digest:
    return
  differences = _differences(found["decides"], plan.decides)
  raise ValueError(
    f"{folder} was made with another config: {'; '.join(differences)}. Choose"
    " another --workdir, or delete that folder to make it again."
  )


def run(
  plan: Plan,
  config: Mapping[str, Any],
  folders: Mapping[str, pathlib.Path],
  pool: workers.Pool,
) -> dict[str, Any]:
  """Makes the shards of one stage that are not there yet.

  Args:
    plan: the stage's.
    config: plain values.
    folders: of this stage and of those that it reads.
    pool: runs the shards.

  Returns:
    The content of the stage's `stage.json`.

  Raises:
    ValueError: if too large a share of rows has no result; counts the reasons.
  """
  stage, folder = plan.stage, folders[plan.stage.name]
  check_folder(plan, folder)
  shards = shard_files.shards_of(config["splits"])
  done = {s: shard_files.read_record(folder, s) for s in shards}
  waiting = [s for s in shards if done[s] is None]
  if not waiting and is_complete(folder):
    return read(folder)
  if folder.is_symlink():
    raise ValueError(
      f"{folder} is reused from {folder.resolve()}, which lacks {waiting[0]}:"
      " run its own config again first."
    )
  folder.mkdir(parents=True, exist_ok=True)
  shard_files.remove_temporaries(folder)
  content = {
    "stage": stage.name,
    "digest": plan.digest,
    "decides": plan.decides,
    "is_complete": False,
    "shards": {},
  }
  shard_files.write_json(folder / STAGE_FILE, content)
  limit = config.get("max_drop_share", {}).get(stage.name, stage.max_drop_share)
  bar = progress.Progress(
    stage.name, _num_rows(plan, folders, waiting), len(waiting)
  )
  inputs = {name: folders[name] for name in plan.inputs}
  for shard, record in pool.run(
    stage.module, waiting, folder, inputs, lambda n: bar.add(rows=n)
  ):
    done[shard] = record
    bar.add(shards=1)
    _check_drops(stage, done.values(), limit, _MIN_ROWS_TO_STOP)
  _check_drops(stage, done.values(), limit, 1)
  bar.finish()
  content["shards"] = {str(shard): done[shard] for shard in shards}
  content["is_complete"] = True
  module = importlib.import_module(stage.module)
  if hasattr(module, "finish"):
    module.finish(config, folders, content)
  shard_files.write_json(folder / STAGE_FILE, content)
  return content


def is_complete(folder: pathlib.Path) -> bool:
  """Whether a stage's folder is finished."""
  path = folder / STAGE_FILE
  return path.exists() and json.loads(path.read_text())["is_complete"]


def read(folder: pathlib.Path) -> dict[str, Any]:
  """A finished stage's `stage.json`.

  Raises:
    ValueError: if the stage is not finished.
  """
  if not is_complete(folder):
    raise ValueError(f"{folder} holds no finished stage; finish its run first.")
  return json.loads((folder / STAGE_FILE).read_text())


def tally(content: Mapping[str, Any], split: str | None = None) -> Counter:
  """Rows by reason ("" is good) of a stage, in all or of one split."""
  counts: Counter = Counter()
  for shard, record in content["shards"].items():
    if split is None or shard.rsplit("-", 3)[0] == split:
      for reasons in record["tallies"].values():
        counts.update(reasons)
  return counts


def _check_drops(stage, records, limit, min_rows):
  counts: Counter = Counter()
  for record in records:
    for reasons in (record or {"tallies": {}})["tallies"].values():
      counts.update(reasons)
  total, dropped = counts.total(), counts.total() - counts[""]
  if total >= min_rows and dropped > limit * total:
    del counts[""]
    reasons = ", ".join(f"{name} {n}" for name, n in counts.most_common())
    raise ValueError(
      f"stage {stage.name!r} stops: {dropped} of {total} rows have no result"
      f" ({dropped / total:.0%}, allowed {limit:.0%}): {reasons}. If that is"
      f" as it should be, raise config.max_drop_share.{stage.name}."
    )


def _num_rows(plan, folders, shards) -> int | None:
  """How many rows the stage will tally; None if nobody knows."""
  if not plan.stage.row_for:
    return None
  folder = folders[plan.stage.row_for]
  found = (shard_files.read_record(folder, shard) for shard in shards)
  rows = sum(r["rows"] for r in found if r)
  return rows * plan.decides["facts"].get("rows_per_input", 1)


def _plain(value: Any) -> Any:
  """As JSON gives it back."""
  return json.loads(json.dumps(value))


def _digest(value: Any) -> str:
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _differences(old: Any, new: Any, path: Sequence[str] = ()) -> list[str]:
  if isinstance(old, dict) and isinstance(new, dict):
    return [
      line
      for key in sorted(set(old) | set(new))
      for line in _differences(old.get(key), new.get(key), (*path, key))
    ]
  if old == new:
    return []
  if path[:1] == ("inputs",):
    return [f"stage {path[-1]!r} differs"]
  return [f"{'.'.join(path)} was {old!r} there and is {new!r} now"]
