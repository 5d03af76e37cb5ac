"""Finds a question that was asked before about the same image."""

from data_gen import records
from vpd_jax.evaluators import scoring


class Seen:
  """Remembers questions; two are equal if they read the same to a scorer."""

  def __init__(self):
    self._keys: set[tuple[str, str]] = set()

  def add(self, question: records.Question) -> bool:
    """Whether the question is new; remembers it."""
    key = (question.image_id, scoring.normalize(question.question))
    is_new = key not in self._keys
    self._keys.add(key)
    return is_new
