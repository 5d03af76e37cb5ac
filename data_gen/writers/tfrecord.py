"""The stage `examples`: training records in sharded TFRecords.

An example without a right program stays, with its label and no rationale.
The folder is a tensorflow-datasets folder too (see `tfds_folder`).
"""

import itertools
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from data_gen import records, shard_files
from data_gen.writers import manifest
from vpd_jax import config_check
from vpd_jax.input import schema

NO_ANSWER = "no_answer"
RATIONALES = ("program", "reference", "mismatched", "none")


class Options:
  """The section `writer`.

  Args:
    rationales: where `rationale` comes from. "program": the kept program.
      Experiments: "reference", the source's own, an upper bound that no real
      data set has; "mismatched", another question's of the same family, a
      control; "none".
  """

  def __init__(
    self,
    rationales: Literal[
      "program", "reference", "mismatched", "none"
    ] = "program",
  ):
    if rationales not in RATIONALES:
      raise ValueError(
        f"config.writer.rationales={rationales!r} is not one of {RATIONALES}."
      )
    self.rationales = rationales


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  section = config.get("writer", {})
  config_check.check_keywords(Options, section, "writer")
  Options(**section)
  return {"schema": schema.VERSION}


def file_name(name: str, shard: shard_files.Shard) -> str:
  """A shard's file, as tensorflow-datasets names it."""
  place = f"{shard.index:05d}-of-{shard.num_shards:05d}"
  return f"{name}-{shard.split}.tfrecord-{place}"


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._name = config["name"]
    self._rationales = Options(**config.get("writer", {})).rationales

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Writes the shard's examples; see `data_gen.stage`."""
    file = file_name(self._name, shard)
    out.open(file)
    images = shard_files.Images(
      folders["questions"] / shard_files.images_name(shard)
    )
    others = {}
    if self._rationales == "mismatched":
      others = mismatched(list(_rows(shard, folders)))
    num_examples = num_rationales = 0
    for question, programs, choice, rationale in _rows(shard, folders):
      record = to_record(question, programs, choice, rationale)
      if self._rationales == "reference":
        record |= {"rationale": question.reference_rationale, "program": ""}
      elif self._rationales == "mismatched":
        record |= {
          "rationale": others.get(question.question_id, ""),
          "program": "",
        }
      elif self._rationales == "none":
        record |= {"rationale": "", "program": ""}
      if not record["answer"]:
        out.tally(question.family, NO_ANSWER)
        continue
      record["source"] = self._name
      record["image"] = images[question.image_id]
      out.write_frame(schema.serialize(record), file)
      out.tally(question.family)
      num_examples += 1
      num_rationales += bool(record["rationale"])
    images.close()
    out.note(num_examples=num_examples, num_rationales=num_rationales)

  def close(self) -> None:
    """See `data_gen.stage`."""


def finish(
  config: Mapping[str, Any],
  folders: Mapping[str, pathlib.Path],
  content: Mapping[str, Any],
) -> None:
  """Writes the manifest, the card and the files of tensorflow-datasets."""
  manifest.write(config, folders, content)


def to_record(
  question: records.Question,
  programs: Sequence[records.Program],
  choice: records.Choice | None,
  rationale: records.Rationale | None,
) -> dict[str, Any]:
  """A record of `vpd_jax.input.schema`, less its image and source.

  Without a choice (no programs were run) the answer is the label.
  """
  answer = question.answers[0] if question.answers else ""
  source = records.ANSWER_FROM_LABEL if answer else ""
  if choice is not None:
    answer, source = choice.answer, choice.answer_source
  text = rationale.text if rationale else ""
  program = ""
  if rationale and text:
    program = next(
      p.text for p in programs if p.index == rationale.program_index
    )
  return {
    "example_id": question.question_id,
    "image_id": question.image_id,
    "question": question.question,
    "answer": answer,
    "answers": question.answers,
    "answer_source": source,
    "rationale": text,
    "program": program,
    "choices": question.choices,
    "regions": question.regions,
    "objects": question.objects,
    "reference_rationale": question.reference_rationale,
    "family": question.family,
  }


def mismatched(rows: Sequence[tuple]) -> dict[str, str]:
  """question_id -> rationale of the next question of its family.

  The next one is about another image and says something else, and after the
  last comes the first; a question without a rationale of its own gets none, so that both data sets
  have rationales on the same questions.
  """
  families = defaultdict(list)
  for question, _, _, rationale in rows:
    if rationale and rationale.text:
      families[question.family].append((question, rationale.text))
  out = {}
  for members in families.values():
    for i, (question, own) in enumerate(members):
      rest = members[i + 1 :] + members[:i]
      texts = (
        t for q, t in rest if q.image_id != question.image_id and t != own
      )
      out[question.question_id] = next(texts, "")
  return out


def _rows(shard, folders) -> Iterator[tuple]:
  """Yields (question, programs, choice, rationale); None where not run."""
  name = f"{shard}.jsonl"

  def rows(stage, cls):
    if stage not in folders:
      return itertools.repeat(None)
    return shard_files.read_rows(cls, folders[stage] / name)

  groups = itertools.repeat(("", ()))
  if "programs" in folders:
    groups = shard_files.read_groups(
      records.Program, folders["programs"] / name
    )
  for question, (_, programs), choice, rationale in zip(
    rows("questions", records.Question),
    groups,
    rows("choices", records.Choice),
    rows("rationales", records.Rationale),
  ):
    yield question, programs, choice, rationale
