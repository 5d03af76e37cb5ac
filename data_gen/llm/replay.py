"""A backend that answers from a file, for tests and for reproducing a run.

One line of the file is one rule:

    {"match": "How many cars", "completions": ["def execute_command(image): ..."]}

A request is answered by the first rule whose `match` occurs in its last
message, from the first completion on, over and over if there are too few.
"""

import json
import pathlib
from collections.abc import Sequence

from data_gen.llm import client


class Client:
  """See `data_gen.llm.client.Client`.

  Args:
    path: of the file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: on a line that is no rule.
  """

  name = "replay"

  def __init__(self, path: str):
    self._path = path
    self._rules = []
    file = pathlib.Path(path)
    if not file.exists():
      raise FileNotFoundError(f"config.llm.path={path!r} does not exist.")
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
      try:
        row = json.loads(line)
        self._rules.append((row["match"], row["completions"]))
        if not row["completions"]:
          raise ValueError("no completions")
      except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
          f"{path}, line {number}: expected an object with 'match' and"
          f" 'completions': {e!r}"
        ) from e

  def complete(
    self, requests: Sequence[client.Request]
  ) -> list[list[client.Completion]]:
    """See `data_gen.llm.client.Client`."""
    return [self._answer(request) for request in requests]

  def _answer(self, request: client.Request) -> list[client.Completion]:
    last = request.messages[-1].content
    for match, texts in self._rules:
      if match in last:
        return [
          client.Completion(texts[i % len(texts)]) for i in range(request.n)
        ]
    raise client.LLMError(f"{self._path} has no rule for {last[-200:]!r}")
