"""Rows of several processes become one list in the order of the file."""

import json

import numpy as np

from vpd_jax import distributed
from vpd_jax.evaluators import vqa


def _row(number):
  return {"example_id": f"é{number}" * (number + 1), "right": number % 2 == 0}


def _play(monkeypatch, of_processes):
  """`process_allgather` as if each process had called it with its rows."""
  texts = [
    np.frombuffer(json.dumps({n: _row(n) for n in rows}).encode(), np.uint8)
    for rows in of_processes
  ]

  def gather(x):
    if x.ndim == 0:
      return np.array([text.size for text in texts], np.int32)
    return np.stack([np.pad(t, (0, x.size - t.size)) for t in texts])

  monkeypatch.setattr(
    distributed.jax, "process_count", lambda: len(of_processes)
  )
  utils = distributed.multihost_utils
  monkeypatch.setattr(utils, "process_allgather", gather)
  return [vqa._gather({n: _row(n) for n in rows}) for rows in of_processes]


def test_all_processes_get_all_rows_in_order(monkeypatch):
  found = _play(monkeypatch, [[0, 1, 4, 5], [2, 3, 6]])
  assert found[0] == found[1] == [_row(n) for n in range(7)]


def test_rows_that_two_processes_hold_count_once(monkeypatch):
  found = _play(monkeypatch, [[0, 1], [0, 1], [2], [2]])
  assert all(rows == [_row(n) for n in range(3)] for rows in found)


def test_a_process_may_have_none(monkeypatch):
  found = _play(monkeypatch, [[0, 1], []])
  assert found[0] == found[1] == [_row(0), _row(1)]
