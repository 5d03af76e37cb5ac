"""Metrics of steps, read while the next one runs; none may be non-finite.

Reading a value waits for its step. The loop therefore reads those of the step
before the one that it has just sent to the devices, which so never stand
still, and yet no step's loss goes unread.
"""

import collections
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vpd_jax import run_record

# Either of them non-finite means that the step spoils the parameters.
CHECKED = ("loss", "grad_norm")
_SHOWN_IDS = 8
LastSaved = Callable[[], int | None]


class Late:
  """Metrics in the order of their steps."""

  def __init__(self):
    self._pending: collections.deque = collections.deque()

  def add(self, at_step: int, metrics: dict[str, jax.Array]) -> None:
    """Notes what a step that was sent off will give."""
    self._pending.append((at_step, metrics))

  def read(self, keep: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, its metrics) of all but the last `keep` steps noted.

    Each is given once; waits for it if it is not done.
    """
    while len(self._pending) > keep:
      at_step, metrics = self._pending.popleft()
      values = jax.device_get(metrics)
      yield at_step, {name: float(value) for name, value in values.items()}


def check(
  at_step: int,
  values: dict[str, float],
  batches: Any,
  folder: pathlib.Path,
  last_saved: LastSaved,
  *,
  is_main: bool = True,
) -> None:
  """Stops a run whose step is not finite.

  Args:
    at_step: the step.
    values: its metrics.
    batches: a `TrainBatches`; its `example_ids` is asked for the batch.
    folder: of the run; bad_batch.json is written there.
    last_saved: gives the step of the last checkpoint; None: there is none.
    is_main: whether this process writes the file.

  Raises:
    ValueError: if the loss or the gradient's norm is not finite; names the
      step, its examples and the last checkpoint.
  """
  bad = {n: values[n] for n in CHECKED if not math.isfinite(values.get(n, 0))}
  if not bad:
    return
  ids = batches.example_ids(at_step - 1)
  path = folder / "bad_batch.json"
  if is_main:
    record = {"step": at_step} | {n: str(v) for n, v in bad.items()}
    text = json.dumps(record | {"example_ids": ids}, indent=2) + "\n"
    run_record.replace_text(path, text)
  what = " and ".join(f"the {n} is {value}" for n, value in bad.items())
  raise ValueError(
    f"{what} at step {at_step}, on the examples {_shorten(ids)} (all in"
    f" {path}). {_last(last_saved())} Lower optim.lr or optim.clip_norm, or look"
    " at these examples; loss.dtype='float32' tells rounding from data."
  )


def check_state(state: Any, at_step: int, last_saved: LastSaved) -> None:
  """Stops a run before it saves what is not finite.

  Args:
    state: tree of arrays, what is about to be saved.
    at_step: the step that made it.
    last_saved: gives the step of the last checkpoint; None: there is none.

  Raises:
    ValueError: if an array holds a number that is not finite.
  """
  if not _is_finite(state):
    raise ValueError(
      f"after step {at_step} parameters or optimizer state are not finite,"
      f" though the loss is; nothing was saved. {_last(last_saved())} Lower"
      " optim.lr."
    )


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
  return jnp.array(
    [
      jnp.isfinite(x).all()
      for x in jax.tree.leaves(tree)
      if jnp.issubdtype(x.dtype, jnp.floating)
    ]
  ).all()


def _last(step: int | None) -> str:
  if step is None:
    return "No checkpoint was saved before."
  return f"The last checkpoint is of step {step}."


def _shorten(ids: Sequence[str]) -> str:
  shown = ", ".join(ids[:_SHOWN_IDS])
  more = len(ids) - _SHOWN_IDS
  return f"{shown} and {more} more" if more > 0 else shown
