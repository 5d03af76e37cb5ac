"""The stage `runs`: runs each program, contained, and keeps what came of it."""

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from data_gen import records, shard_files
from data_gen.sandbox import executor
from data_gen.tools import toolbox
from vpd_jax import config_check, lookup


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  section = config.get("sandbox", {})
  config_check.check_keywords(executor.Executor, section, "sandbox")
  # A machine that cannot contain programs says so before anything is made.
  executor.Executor(**section).close()
  for call, options in config["tools"].items():
    tool = lookup.module("data_gen.tools", options.get("name", "")).Tool
    section = {k: v for k, v in options.items() if k != "name"}
    config_check.check_keywords(tool, section, f"tools.{call}")
  return {"tools": toolbox.Toolbox(config["tools"]).versions}


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._toolbox = toolbox.Toolbox(config["tools"])
    self._executor = executor.Executor(**config.get("sandbox", {}))

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Runs the shard's programs; see `data_gen.stage`."""
    out.open(f"{shard}.jsonl")
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
    for question, (_, group) in zip(questions, programs, strict=True):
      call_tool = self._bind(images[question.image_id])
      runs: dict[str, records.Run] = {}
      for program in group:
        # Equal texts on one image come to the same: run them once.
        run = runs.get(program.text) or self._run(program, call_tool)
        runs[program.text] = run
        run = dataclasses.replace(run, index=program.index)
        out.write_row(run)
        out.tally(question.family, run.error_class)
    images.close()
    out.note(sandbox=self._executor.layers)

  def close(self) -> None:
    """See `data_gen.stage`."""
    self._executor.close()

  def _bind(self, encoded: bytes):
    key = hashlib.sha256(encoded).hexdigest()
    with PIL.Image.open(io.BytesIO(encoded)) as image:
      return self._toolbox.bind(np.asarray(image.convert("RGB")), key)

  def _run(self, program: records.Program, call_tool) -> records.Run:
    outcome = self._executor.run(program.text, call_tool)
    return records.Run(
      question_id=program.question_id,
      index=program.index,
      status=outcome.status,
      error_class=outcome.error_class,
      message=outcome.message,
      answer=outcome.answer,
      trace=outcome.trace,
    )
