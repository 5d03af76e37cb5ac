"""The protocol of an LLM client, used for programs, judging and rewriting.

One backend is one file of this folder with a class `Client` (this protocol),
named in the config: `config.llm = dict(name="grammar")`. It is constructed
with the section's other keys as keyword arguments.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol


class LLMError(RuntimeError):
  """A request failed for good (after the backend's own retries)."""


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn: role is "system", "user" or "assistant"."""

  role: str
  content: str


@dataclasses.dataclass(frozen=True)
class Request:
  """What to sample.

  Attributes:
    messages: the conversation.
    n: how many completions.
    temperature: of sampling; 0 is greedy.
    max_new_tokens: length limit of each completion.
    stop: texts that end a completion, and are not part of it.
    seed: equal requests give equal completions where the backend can.
  """

  messages: tuple[Message, ...]
  n: int = 1
  temperature: float = 0.0
  max_new_tokens: int = 512
  stop: tuple[str, ...] = ()
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Completion:
  """One sampled text.

  Attributes:
    text: without the stop text.
    score: mean log-probability per token in nats; None if unknown.
    finish_reason: "stop" or "length".
  """

  text: str
  score: float | None = None
  finish_reason: str = "stop"


class Client(Protocol):
  """A backend; `name` appears in records, manifests and the report."""

  name: str

  def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
    """Exactly `request.n` completions per request, in order.

    Raises:
      LLMError: if a request fails for good; names the endpoint and the cause.
    """
    ...
