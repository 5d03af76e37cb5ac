"""The stage `programs`: k programs per question, sampled from an LLM."""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from data_gen import records, shard_files
from data_gen.llm import cache, client
from data_gen.programs import parse
from data_gen.prompts import load
from data_gen.tools import profiles
from vpd_jax import config_check

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
  """The section `sampling`.

  Attributes:
    num_programs: samples per question; 5 for labelled data in the paper.
    temperature: of sampling.
    prompt: a file of `data_gen/prompts`.
    max_new_tokens: length limit of a program.

  Source of k and the temperature: Hu et al., arXiv:2312.03052, section 3.1.
  """

  num_programs: int = 5
  temperature: float = 0.5
  prompt: str = "vpd_v1"
  max_new_tokens: int = 512

  def __post_init__(self):
    if self.num_programs < 1:
      raise ValueError(
        f"config.sampling.num_programs={self.num_programs} must be 1 or more."
      )


def check(config: Mapping[str, Any]) -> dict[str, Any]:
  """See `data_gen.stage`."""
  config_check.check_keywords(Sampling, config.get("sampling", {}), "sampling")
  sampling = Sampling(**config.get("sampling", {}))
  options = dict(config["llm"])
  backend = cache.client_class(options.pop("name", ""))
  options.pop("cache_dir", None)
  config_check.check_keywords(backend, options, "llm")
  return {
    "prompt": prompt(sampling.prompt, _profile(config)).digest,
    "rows_per_input": sampling.num_programs,
  }


def prompt(name: str, profile: str = "vpd") -> load.Prompt:
  """The named prompt with the text of the API `profile` filled in.

  Raises:
    KeyError: if there is no such prompt or API.
    ValueError: if the prompt's own programs use another API.
  """
  unfilled = load.load(name)
  text = profiles.get(profile).prompt_text().strip()
  if unfilled.profile != profile:
    raise ValueError(
      f"config.sampling.prompt={name!r} teaches the API {unfilled.profile!r}, "
      f"but config.sandbox.profile={profile!r} runs programs with another one;"
      f" set config.sandbox.profile={unfilled.profile!r}, or choose a prompt"
      f" for {profile!r}."
    )
  return unfilled.filled(api=text)


def _profile(config: Mapping[str, Any]) -> str:
  """The API that the programs will be run with."""
  return config.get("sandbox", {}).get("profile", "vpd")


class Worker:
  """See `data_gen.stage`."""

  def __init__(self, config: Mapping[str, Any]):
    self._sampling = Sampling(**config.get("sampling", {}))
    self._prompt = prompt(self._sampling.prompt, _profile(config))
    self._client = cache.connect(**config["llm"])
    self._seed = config["seed"]

  def run(
    self,
    shard: shard_files.Shard,
    folders: Mapping[str, pathlib.Path],
    out: shard_files.ShardOutput,
  ) -> None:
    """Samples programs for the shard's questions; see `data_gen.stage`."""
    out.open(f"{shard}.jsonl")
    path = folders["questions"] / f"{shard}.jsonl"
    questions = shard_files.read_rows(records.Question, path)
    while batch := list(itertools.islice(questions, _BATCH)):
      answers = self._client.complete([self._request(q) for q in batch])
      for question, completions in zip(batch, answers, strict=True):
        for index, completion in enumerate(completions):
          out.write_row(self._program(question, index, completion))
          out.tally(question.family)

  def close(self) -> None:
    """See `data_gen.stage`."""

  def _request(self, question: records.Question) -> client.Request:
    return client.Request(
      messages=self._prompt.messages(question=question.question),
      n=self._sampling.num_programs,
      temperature=self._sampling.temperature,
      max_new_tokens=self._sampling.max_new_tokens,
      stop=("\n# Query:",),
      seed=request_seed(self._seed, question.question_id),
    )

  def _program(self, question, index, completion) -> records.Program:
    return records.Program(
      question_id=question.question_id,
      index=index,
      text=parse.extract(completion.text[: parse.MAX_COMPLETION_CHARS + 1]),
      score=completion.score,
      writer=self._client.name,
      prompt=f"{self._prompt.name}-{self._prompt.digest}",
    )


def request_seed(seed: int, question_id: str) -> int:
  """A seed of 31 bits of its own for each question."""
  digest = hashlib.sha256(f"{seed}/{question_id}".encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1
