"""A stand-in for an LLM that writes programs, where none is configured.

A small stochastic grammar: it reads the question, plans, makes mistakes at
the configured rates, and writes Python in varied styles. It sees the prompt's
messages and nothing else: no image, no answer, no family. Its name in records
is "grammar".
"""

import random
import re
from collections.abc import Sequence

from data_gen.llm import (
  _grammar_mistakes,
  _grammar_parse,
  _grammar_write,
  client,
)

_QUERY = re.compile(r"^# Query: (.*)$", re.MULTILINE)
# The rates are meant at this temperature (Hu et al., arXiv:2312.03052).
_REFERENCE_TEMPERATURE = 0.5
_GREEDY_SHARE = 0.4  # Of the rates, at temperature 0.
_CHARS_PER_TOKEN = 4


class Client:
  """See `data_gen.llm.client.Client`.

  A sample's mistakes depend on the request's seed, the sample's number and
  the question; at temperature 0 all samples are the same.

  Args:
    mistake_rate: of samples with a wrong plan, at temperature 0.5.
    fault_rate: of samples with a faulty text, at temperature 0.5.
    misreading_rate: of questions that the writer misunderstands: all its
      samples then have the same mistake in the plan.
    chatter_rate: of samples in a fenced block with a sentence before it.
  """

  name = "grammar"

  def __init__(
    self,
    *,
    mistake_rate: float = 0.42,
    fault_rate: float = 0.24,
    misreading_rate: float = 0.05,
    chatter_rate: float = 0.1,
  ):
    for rate_name, rate in (
      ("mistake_rate", mistake_rate),
      ("fault_rate", fault_rate),
      ("misreading_rate", misreading_rate),
      ("chatter_rate", chatter_rate),
    ):
      if not 0 <= rate <= 1:
        raise ValueError(f"llm.{rate_name}={rate} must be in 0..1.")
    self._mistake_rate = mistake_rate
    self._fault_rate = fault_rate
    self._misreading_rate = misreading_rate
    self._chatter_rate = chatter_rate

  def complete(
    self, requests: Sequence[client.Request]
  ) -> list[list[client.Completion]]:
    """See `data_gen.llm.client.Client`.

    Raises:
      LLMError: if a prompt has no line "# Query: <question>".
    """
    return [self._complete(request) for request in requests]

  def _complete(self, request):
    question = _last_query(request)
    plan = _grammar_parse.parse(question)
    shared = random.Random(f"{request.seed}|{question}")
    if shared.random() < self._misreading_rate:
      plan = _grammar_mistakes.spoil_plan(plan, shared)
    return [
      self._sample(request, question, plan, number)
      for number in range(request.n)
    ]

  def _sample(self, request, question, plan, number):
    if request.temperature == 0:
      number = 0
    rng = random.Random(f"{request.seed}|{question}|{number}")
    scale = _GREEDY_SHARE + (1 - _GREEDY_SHARE) * (
      request.temperature / _REFERENCE_TEMPERATURE
    )
    style = _grammar_write.draw_style(rng)
    mistakes = 0
    if rng.random() < self._mistake_rate * scale:
      plan = _grammar_mistakes.spoil_plan(plan, rng)
      mistakes += 1
    text = _grammar_write.write(plan, style)
    if rng.random() < self._fault_rate * scale:
      text = _grammar_mistakes.spoil_text(text, rng)
      mistakes += 1
    if rng.random() < self._chatter_rate:
      text = f"Here is the program:\n```python\n{text}```\n"
    # An LLM is a little less sure of what is wrong, with much overlap.
    score = -0.3 - 0.05 * mistakes - abs(rng.gauss(0, 0.12))
    return _cut(text, round(score, 4), request)


def _last_query(request):
  for message in reversed(request.messages):
    if message.role == "user":
      queries = _QUERY.findall(message.content)
      if queries:
        return queries[-1].strip()
  raise client.LLMError(
    "the program writer 'grammar' reads a question from the last line"
    " '# Query: <question>' of the prompt, and this prompt has none; use"
    " config.sampling.prompt='vpd_v1', or another llm."
  )


def _cut(text, score, request):
  """Ends the text at a stop text or at the length limit."""
  finish_reason = "stop"
  ends = [text.find(stop) for stop in request.stop if stop in text]
  if ends:
    text = text[: min(ends)]
  limit = request.max_new_tokens * _CHARS_PER_TOKEN
  if len(text) > limit:
    text, finish_reason = text[:limit], "length"
  return client.Completion(text, score, finish_reason)
