"""Remembers what was computed for the last few images."""

import collections
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memory(Generic[Value]):
  """A bounded memory of values by key; the least recently used leaves first.

  An instance belongs to one tool in one process, so it needs no lock.
  """

  def __init__(self, capacity: int = 16):
    self._capacity = capacity
    self._values: collections.OrderedDict[object, Value] = (
      collections.OrderedDict()
    )

  def get(self, key: object, compute: Callable[[], Value]) -> Value:
    """The value of `key`; computed if it is not remembered."""
    if key in self._values:
      self._values.move_to_end(key)
      return self._values[key]
    value = compute()
    self._values[key] = value
    if len(self._values) > self._capacity:
      self._values.popitem(last=False)
    return value
