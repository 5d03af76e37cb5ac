"""A stand-in for an LLM: fills in program templates by the question's form.

It writes for photographs what the grammar writes for the embedded world, yet
far less well: it takes a question's words as they are, without understanding
them. It sees the prompt's messages and nothing else.
"""

import random
import re
from collections.abc import Sequence

from data_gen.llm import _templates_forms, client

_QUERY = re.compile(r"^# Query: (.*)$", re.MULTILINE)


class Client:
  """See `data_gen.llm.client.Client`.

  A question of a known form has two or more templates, the plainest first. At
  temperature 0 it gives the first; else it draws among them, the plainest
  most often. A sample depends on the seed, its number and the question.
  """

  name = "templates"

  def complete(
    self, requests: Sequence[client.Request]
  ) -> list[list[client.Completion]]:
    """See `data_gen.llm.client.Client`.

    Raises:
      LLMError: if a prompt has no line "# Query: <question>".
    """
    return [self._complete(request) for request in requests]

  def _complete(self, request):
    found = [
      query
      for message in request.messages
      for query in _QUERY.findall(message.content)
    ]
    if not found:
      raise client.LLMError(
        "templates: the prompt has no line '# Query: <question>'"
      )
    question = found[-1].strip()
    programs = _templates_forms.programs_for(question)
    completions = []
    for index in range(request.n):
      rng = random.Random(f"{request.seed}|{index}|{question}")
      choice = 0
      if request.temperature > 0:
        # Each further template is half as likely as the one before it.
        weights = [0.5**i for i in range(len(programs))]
        choice = rng.choices(range(len(programs)), weights)[0]
      completions.append(client.Completion(programs[choice], score=None))
    return completions
