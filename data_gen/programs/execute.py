"""The stage `runs`: runs each program, contained, and keeps what came of it."""

import collections
import dataclasses
import hashlib
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from data_gen import records, shard_files
from data_gen.sandbox import engine, executor
from data_gen.tools import server, toolbox
from data_gen.tools import tool as tool_lib
from vpd_jax import config_check


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """The section `engine`: how programs share the machine, not what they give.

  Attributes:
    in_flight: most programs at a time in each worker.
    batch_window_s: longest wait of a tool call for others to join its batch.
    cache_dir: folder where tools' answers are kept for later runs; "" keeps
      none. Several runs may share it.
    processes: call -> name of the process that its tool runs in; calls of one
      name share it, and so do those that are left out.
  """

  in_flight: int = 64
  batch_window_s: float = 0.005
  cache_dir: str = ""
  processes: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    in_flight, window_s = self.in_flight, self.batch_window_s
    if type(in_flight) is not int or not 1 <= in_flight <= engine.MAX_IN_FLIGHT:
      raise ValueError(
        f"config.engine.in_flight={in_flight!r} must be from 1 to"
        f" {engine.MAX_IN_FLIGHT}."
      )
    if type(window_s) not in (int, float) or not 0 <= window_s < math.inf:
      raise ValueError(
        f"config.engine.batch_window_s={window_s!r} must be seconds, 0 or more."
      )
    if not isinstance(self.cache_dir, str):
      raise ValueError(
        f"config.engine.cache_dir={self.cache_dir!r} must be a folder or ''."
      )
    if not isinstance(self.processes, Mapping) or not all(
      isinstance(name, str) for name in self.processes.values()
    ):
      raise ValueError(
        f"config.engine.processes={self.processes!r} must give each call the"
        " name of a process."
      )


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  section = config.get("sandbox", {})
  config_check.check_keywords(executor.Executor, section, "sandbox")
  config_check.check_keywords(EngineConfig, config.get("engine", {}), "engine")
  options = EngineConfig(**config.get("engine", {}))
  config_check.check_names(
    options.processes, config["tools"], "config.engine.processes."
  )
  # A machine that cannot contain programs says so before anything is made.
  with executor.Executor(**section) as sandbox:
    text = executor.layers_text(sandbox.layers)
  print(f"sandbox     {text}", file=sys.stderr)
  for call, tool_options in config["tools"].items():
    tool = toolbox.tool_class(tool_options.get("name", ""))
    section = {k: v for k, v in tool_options.items() if k != "name"}
    config_check.check_keywords(tool, section, f"tools.{call}")
  with server.ToolServer(config["tools"]) as tools:
    return {"tools": tools.versions, "weights": tools.weights}


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    options = EngineConfig(**config.get("engine", {}))
    self._in_flight = options.in_flight
    self._executor = executor.Executor(**config.get("sandbox", {}))
    self._tools = server.ToolServer(
      {
        call: {**section, "process": options.processes.get(call, "tools")}
        for call, section in config["tools"].items()
      },
      batch_window_s=options.batch_window_s,
      cache_dir=options.cache_dir,
    )
    self._stats: dict[str, Any] = {}

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Runs the shard's programs; see `data_gen.stage`."""
    out.open(f"{shard}.jsonl")
    groups: collections.deque[_Group] = collections.deque()
    jobs = self._jobs(shard, folders, groups)
    for outcome in self._executor.run_all(jobs, self._tools, self._in_flight):
      group = groups[0]
      group.outcomes.append(outcome)
      if len(group.outcomes) == len(group.texts):
        groups.popleft()
        _write(group, out)
    out.note(sandbox=self._executor.layers)
    stats = self._tools.stats()
    out.measure(tools=_since(self._stats, stats))
    self._stats = stats

  def close(self) -> None:
    """See `data_gen.stage`."""
    self._executor.close()
    self._tools.close()

  def _jobs(self, shard, folders, groups) -> Iterator[engine.Job]:
    """The shard's programs; those of one question join `groups` as one.

    Equal texts on one image come to the same: they run once.
    """
    name = f"{shard}.jsonl"
    questions = shard_files.read_rows(
      records.Question, folders["questions"] / name
    )
    programs = shard_files.read_groups(
      records.Program, folders["programs"] / name
    )
    images = shard_files.Images(
      folders["questions"] / shard_files.images_name(shard)
    )
    for question, (question_id, group) in zip(questions, programs, strict=True):
      if question.question_id != question_id:
        raise ValueError(
          f"{folders['programs'] / name}: expected programs of the question"
          f" {question.question_id!r}, found those of {question_id!r}. Delete"
          " that folder to make it again."
        )
      encoded = images[question.image_id]
      image = tool_lib.Image(hashlib.sha256(encoded).hexdigest(), encoded)
      texts = list(dict.fromkeys(program.text for program in group))
      groups.append(_Group(question, group, texts))
      for text in texts:
        yield engine.Job(text, image)
    images.close()


@dataclasses.dataclass(frozen=True)
class _Group:
  """A question's programs, and what came of their texts so far."""

  question: records.Question
  programs: list[records.Program]
  texts: list[str]
  outcomes: list[executor.Outcome] = dataclasses.field(default_factory=list)


def _write(group, out):
  outcomes = dict(zip(group.texts, group.outcomes, strict=True))
  for program in group.programs:
    outcome = outcomes[program.text]
    out.write_row(
      records.Run(
        question_id=program.question_id,
        index=program.index,
        status=outcome.status,
        error_class=outcome.error_class,
        message=outcome.message,
        answer=outcome.answer,
        trace=outcome.trace,
      )
    )
    out.tally(group.question.family, outcome.error_class)


def _since(before, now):
  """What was counted since, in dicts of numbers."""
  if isinstance(now, dict):
    before = before or {}
    return {key: _since(before.get(key), value) for key, value in now.items()}
  is_count = isinstance(now, int | float) and not isinstance(now, bool)
  return now - (before or 0) if is_count else now
