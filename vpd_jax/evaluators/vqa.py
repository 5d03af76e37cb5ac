"""Answers by greedy decoding, scored by exact match after normalisation.

Two ways of answering, from one set of weights: "direct" asks for the answer;
"rationale" asks for the rationale, and reads the answer off its end. VPD
answers benchmarks directly (Hu et al., arXiv:2312.03052, section 3.2).
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vpd_jax import distributed, step
from vpd_jax.decode import loop
from vpd_jax.evaluators import rationale, scoring
from vpd_jax.input import mixture, pipeline, records, tasks
from vpd_jax.models import naflex
from vpd_jax.sharding import place

MODES = ("direct", "rationale")


class Evaluator:
  """Predicts and scores one split of a data set.

  Of several processes, all call its methods; each reads and scores the rows
  that its devices hold, and all get the whole.

  Args:
    parts: what the config built.
    dir, split: of the data set.
    modes: which of MODES to run.
    batch_size: questions decoded at once.
    label_suffix, rationale_suffix: as in `input.tasks.to_arrays`.

  Raises:
    ValueError: for an unknown mode, or a batch that does not divide over the
      devices.
    FileNotFoundError: if the data set has no such split.
  """

  def __init__(
    self,
    *,
    parts: Any,
    dir: str,
    split: str,
    modes: Sequence[str] = ("direct",),
    batch_size: int = 200,
    label_suffix: str = tasks.LABEL_SUFFIX,
    rationale_suffix: str = tasks.RATIONALE_SUFFIX,
  ):
    unknown = sorted(set(modes) - set(MODES))
    if unknown:
      raise ValueError(f"modes {unknown} are unknown; there are {MODES}.")
    place.check_batch_size(batch_size, parts.batch_sharding)
    self._parts, self._modes = parts, tuple(modes)
    self._dir, self._split = dir, split
    records.find_shards(dir, split)
    self._batch_size = batch_size
    self._rows = mixture.rows_of(parts.batch_sharding, batch_size)
    self._suffixes: dict[str, Any] = {
      "label_suffix": label_suffix,
      "rationale_suffix": rationale_suffix,
    }
    self._batches: list | None = None
    self.metrics = tuple(f"{mode}_accuracy" for mode in modes)

  def predict(
    self, params: step.Params
  ) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row per question, in file order, and seconds per mode.

    Returns:
      Rows with example_id, image_id, family, question, answers, and per mode
      its text, answer and whether that is correct; None for a mode not run.
      And the seconds that each mode's decoding took.
    """
    rows, seconds = {}, dict.fromkeys(self._modes, 0.0)
    for number, (batch, batch_records) in enumerate(self._load()):
      texts = {}
      for mode in self._modes:
        start = time.perf_counter()
        texts[mode] = self._decode(params, batch, mode)
        seconds[mode] += time.perf_counter() - start
      for index, record in enumerate(batch_records):
        row = {
          key: record[key]
          for key in ("example_id", "image_id", "family", "question", "answers")
        }
        direct = texts.get("direct", {}).get(index)
        text = texts.get("rationale", {}).get(index)
        answer = None if text is None else rationale.answer_of(text)
        row |= {
          "direct": direct,
          "direct_is_correct": _is_correct(direct, record),
          "rationale": text,
          "rationale_answer": answer,
          "rationale_is_correct": _is_correct(answer, record),
        }
        rows[number * self._batch_size + self._rows[index]] = row
    return _gather(rows), seconds

  def score(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of right answers in rows of `predict`, per mode."""
    return {
      f"{mode}_accuracy": float(
        np.mean([row[f"{mode}_is_correct"] for row in rows])
      )
      for mode in self._modes
    }

  def run(self, params: step.Params) -> dict[str, float]:
    """Accuracy of each mode."""
    return self.score(self.predict(params)[0])

  def warm_up(self, params: step.Params) -> None:
    """Compiles, and reads the data, so that a timed `predict` does neither."""
    batch, _ = self._load()[0]
    for mode in self._modes:
      self._decode(params, batch, mode)

  def _load(self):
    # Kept: an evaluator that runs every few hundred steps would otherwise
    # decode the same pictures each time.
    if self._batches is None:
      self._batches = list(
        pipeline.eval_batches(
          self._dir,
          self._split,
          self._parts.tokenizer,
          self._parts.lengths,
          self._batch_size,
          image_px=self._parts.image_px,
          rows=self._rows,
          with_targets=False,
          **self._suffixes,
          **self._parts.row_options,
        )
      )
    return self._batches

  def _decode(self, params, batch, mode) -> dict[int, str]:
    parts = self._parts
    task = "label" if mode == "direct" else "rationale"
    inputs = {k: x for k, x in batch.items() if k.startswith("image")}
    inputs["prompt"] = batch[f"{task}_prompt"]
    inputs = place.put_batch(inputs, parts.batch_sharding)
    ids = _greedy(
      params,
      naflex.picture(inputs),
      inputs["prompt"],
      graphdef=parts.graphdef,
      max_new_tokens=getattr(parts.lengths, task),
      eos_id=parts.tokenizer.eos_id,
      whole=NamedSharding(parts.batch_sharding.mesh, PartitionSpec()),
    )
    mine = np.asarray(ids)[self._rows].tolist()
    texts = [parts.tokenizer.decode(row) for row in mine]
    return dict(enumerate(texts))


@functools.partial(
  jax.jit, static_argnames=("graphdef", "max_new_tokens", "eos_id", "whole")
)
def _greedy(params, image, prompt, *, graphdef, max_new_tokens, eos_id, whole):
  ids = loop.greedy(
    step.merge(graphdef, params),
    image,
    prompt,
    max_new_tokens=max_new_tokens,
    eos_id=eos_id,
  )
  # A process can look at all of an array only where it is whole everywhere.
  return jax.lax.with_sharding_constraint(ids, whole)


def _gather(rows: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows by number, of all processes, in order; some may have the same."""
  # The numbers are text in between, as keys of JSON.
  of_all = {
    int(number): row
    for part in distributed.gather(rows)
    for number, row in part.items()
  }
  return [of_all[number] for number in sorted(of_all)]


def _is_correct(answer: str | None, record) -> bool | None:
  if answer is None:
    return None
  return scoring.exact_match(answer, record["answers"])
