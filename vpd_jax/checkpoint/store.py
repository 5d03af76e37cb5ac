"""Saves and restores a run: its state, its input position, its notes.

A checkpoint is an Orbax folder, CHECKPOINTS/STEP/, that appears by rename when
it is complete. Arrays are stored by name (`trees.flatten_with_names`), so a
checkpoint of another model is refused with a list of names, and the mesh may
differ from the one that saved it. The small file format for weights that ship
with the package is at the end.
"""

import contextlib
import logging
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import type_handlers

from vpd_jax import trees

_ITEMS = ("state", "notes")
# Devices that all hold an array each write a part of it, if it is as large.
# Below this, to cut it (a small program for each shape) costs more.
_LEAST_PART = 1 << 20
_POLL_S = 0.01


class Store:
  """Checkpoints of one run. In a run of several processes, all call it.

  In `with`, an error inside waits for the save that is under way, so that this
  ends whole, and says nothing of it; of several processes none waits, as the
  others may be gone.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    keep: int = 2,
    *,
    is_read_only: bool = False,
  ):
    """Opens the folder; makes it unless `is_read_only`.

    Args:
      directory: of the checkpoints.
      keep: how many of the latest stay.
      is_read_only: refuse to save; for use by evaluation.

    Raises:
      FileNotFoundError: if it is read only and not there.
      OSError: if it cannot be made or written.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._is_read_only = is_read_only
    if is_read_only and not self._directory.is_dir():
      raise FileNotFoundError(
        f"no checkpoint folder {self._directory}. Train first, with the same"
        " workdir."
      )
    if not is_read_only:
      _make_writable(self._directory)
      if jax.process_index() == 0:
        _set_aside_incomplete(self._directory)
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"open {self._directory.name}")
    self._failures: list[Exception] = []
    handlers = {
      "state": _arrays_handler(),
      "notes": ocp.JsonCheckpointHandler(),
    }
    for handler in handlers.values():
      _have_told(handler, self._failures.append)
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_handlers=handlers,
      # What goes with read_only; orbax sets it too, with a warning for each.
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None if is_read_only else keep,
        save_interval_steps=int(not is_read_only),
        create=not is_read_only,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=not is_read_only,
        read_only=is_read_only,
      ),
    )

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None and jax.process_count() == 1:
      try:
        self.wait()
      except OSError as e:  # The error inside is the one to be told.
        logging.info("%s", e)

  def latest_step(self) -> int | None:
    """Step of the latest complete checkpoint; None: there is none."""
    return max(self._steps(), default=None)

  def save(
    self,
    step: int,
    state: Any,
    input_state: Mapping[str, Any],
    meta: Mapping[str, Any],
  ) -> None:
    """Starts to save; returns as soon as `state` may be overwritten.

    Checkpoints at this step or later belong to a run that was cut off and is
    now done again from an earlier one: they are replaced.

    Args:
      step: the checkpoint's number.
      state: tree of arrays.
      input_state: JSON-safe, from `TrainBatches.get_state`.
      meta: JSON-safe.

    Raises:
      OSError: if this or the previous checkpoint cannot be written.
    """
    notes = {"input_state": dict(input_state), "meta": dict(meta)}
    arrays = trees.nest(trees.flatten_with_names(state))
    try:
      self._join()  # One may still be under way.
      for stale_step in [s for s in self._manager.all_steps() if s >= step]:
        self._manager.delete(stale_step)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(arrays),
          notes=ocp.args.JsonSave(notes),
        ),
        force=True,
      )
    except (OSError, ValueError) as e:
      raise self._cannot_write(e) from e

  def check(self) -> None:
    """OSError if a save failed since; does not wait for one under way."""
    # Orbax's own check_for_errors says nothing of a save that has ended.
    if self._failures or not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits for the save that is under way; OSError if it failed."""
    try:
      self._join()
    except (OSError, ValueError) as e:
      raise self._cannot_write(e) from e

  def _join(self) -> None:
    """Waits; of several processes, one whose own part failed says so at once.

    Orbax's thread would first wait for the others, and they wait for it.
    """
    if jax.process_count() > 1:
      while self._manager.is_saving_in_progress() and not self._failures:
        time.sleep(_POLL_S)
      if self._failures:
        raise self._failures[0]
    self._manager.wait_until_finished()

  def has(self, step: int) -> bool:
    """Whether there is a complete checkpoint of that step."""
    return step in self._steps()

  def restore(
    self, step: int, abstract_state: Any
  ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: one that is there.
      abstract_state: tree of ShapeDtypeStructs with shardings, or of arrays:
        the structure, and where the arrays go.

    Returns:
      (state, input_state, meta) as they were saved.

    Raises:
      FileNotFoundError: if there is no complete checkpoint of that step.
      ValueError: if it is of another model, and lists the names that differ;
        or if it is damaged, and says what is there before it.
    """
    self.wait()
    if not self.has(step):
      raise FileNotFoundError(
        f"{self._directory} has no complete checkpoint of step {step}; it has"
        f" {self._steps()}"
      )
    expected = trees.flatten_with_names(abstract_state)
    folder = self._directory / str(step)
    with self._naming_damage(step):
      metadata = self._manager.item_metadata(step)["state"]
      saved = trees.flatten_with_names(metadata.tree)
    trees.check_same(saved, expected, f"checkpoint {folder}")
    nested = trees.nest(expected)
    with self._naming_damage(step):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(
            nested,
            restore_args=ocp.checkpoint_utils.construct_restore_args(nested),
          ),
          notes=ocp.args.JsonRestore(),
        ),
      )
      arrays = trees.flatten_with_names(restored["state"])
      input_state, meta = (
        restored["notes"][n] for n in ("input_state", "meta")
      )
    return trees.unflatten_like(abstract_state, arrays), input_state, meta

  @contextlib.contextmanager
  def _naming_damage(self, step: int) -> Iterator[None]:
    """Whatever a damaged file makes Orbax raise becomes a ValueError."""
    try:
      yield
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # No room for the arrays: the files are as they were.
    except Exception as e:
      first, *_ = str(e).splitlines() or [type(e).__name__]
      before = max((s for s in self._steps() if s < step), default=None)
      start = "the start" if before is None else f"step {before}"
      way_out = (
        "Take it from a copy, or train in another workdir."
        if self._is_read_only
        else f"Remove that folder to go on from {start}."
      )
      raise ValueError(
        f"checkpoint {self._directory / str(step)} is damaged: {first}."
        f" {way_out}"
      ) from e

  def _steps(self) -> list[int]:
    steps = self._manager.all_steps()
    return [s for s in steps if _is_complete(self._directory / str(s))]

  def _cannot_write(self, error: Exception) -> OSError:
    return OSError(
      f"cannot write a checkpoint to {self._directory}: {error}. Free some"
      " space, or check who may write there; run again, and training goes on"
      f" from the last complete checkpoint (step {self.latest_step()})."
    )


def restore_params(
  directory: str | os.PathLike, step: int, abstract_params: Any
) -> Any:
  """Reads the parameters that a run saved alone, as its best.

  Args:
    directory: of the checkpoints, each of a state {"params": ...}.
    step: one that is there.
    abstract_params: tree of ShapeDtypeStructs with shardings.

  Raises:
    FileNotFoundError, ValueError: as `Store.restore`.
  """
  store = Store(directory, is_read_only=True)
  return store.restore(step, {"params": abstract_params})[0]["params"]


def save_frozen(directory: str | os.PathLike, frozen: Any) -> None:
  """Writes what a run does not train, once: checkpoints do not repeat it.

  Args:
    directory: for nothing else; not made if nothing is frozen.
    frozen: tree of arrays.

  Raises:
    OSError: if it cannot be written.
  """
  if jax.tree.leaves(frozen):
    store = Store(directory, keep=1)
    store.save(0, frozen, {}, {})
    store.wait()


def restore_frozen(directory: str | os.PathLike, abstract: Any) -> Any:
  """Reads what `save_frozen` wrote; nothing if nothing is frozen.

  Args:
    directory: of it.
    abstract: tree of ShapeDtypeStructs with shardings.

  Raises:
    FileNotFoundError, ValueError: as `Store.restore`.
  """
  if not jax.tree.leaves(abstract):
    return abstract
  return Store(directory, is_read_only=True).restore(0, abstract)[0]


def save_params(
  path: str | os.PathLike, params: Any, dtype: str = "float16"
) -> None:
  """Writes weights as one compressed .npz, same bytes for the same weights.

  Args:
    path: of the file; replaced in one move if it is there.
    params: tree of float arrays.
    dtype: to store them in: "float16", or "float32" for no loss.

  Raises:
    ValueError: if a weight is too large for float16.
  """
  path = pathlib.Path(path)
  stored = {}
  for name, value in trees.flatten_with_names(params).items():
    full = np.asarray(jax.device_get(value)).astype(np.float32)
    with np.errstate(over="ignore"):
      stored[name] = full.astype(dtype)
    if not np.array_equal(np.isfinite(full), np.isfinite(stored[name])):
      raise ValueError(
        f"{name} has a weight of {np.abs(full).max():g}, too large for"
        f" {dtype}; save with dtype='float32'."
      )
  unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
  with open(unfinished, "wb") as file:
    np.savez_compressed(file, **stored)
  os.replace(unfinished, path)


def load_params(path: str | os.PathLike, abstract_params: Any) -> Any:
  """Reads what `save_params` wrote.

  Args:
    path: of the file.
    abstract_params: tree of arrays or ShapeDtypeStructs: names, shapes and
      dtypes to load.

  Returns:
    A tree like `abstract_params` of numpy arrays.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of another model; lists the names.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      stored = {name: file[name] for name in file.files}
  except (zipfile.BadZipFile, ValueError, EOFError) as e:
    raise ValueError(f"{path} is no complete .npz of weights: {e}") from e
  expected = trees.flatten_with_names(abstract_params)
  trees.check_same(stored, expected, os.fspath(path))
  cast = {name: stored[name].astype(expected[name].dtype) for name in expected}
  return trees.unflatten_like(abstract_params, cast)


def _arrays_handler() -> ocp.PyTreeCheckpointHandler:
  handler = type_handlers.ArrayHandler(
    min_slice_bytes_for_replica_parallel=_LEAST_PART
  )
  return ocp.PyTreeCheckpointHandler(
    type_handler_registry=type_handlers.create_type_handler_registry(
      (jax.Array, handler), (np.ndarray, type_handlers.NumpyHandler())
    )
  )


def _have_told(handler: Any, tell: Callable[[Exception], None]) -> None:
  """Has a handler call `tell` with the error of a save as soon as there is one."""
  save, finalize = handler.async_save, handler.finalize

  @contextlib.contextmanager
  def telling():
    try:
      yield
    except Exception as e:
      tell(e)
      raise

  async def save_telling(*args, **options):
    with telling():
      futures = await save(*args, **options)
    return [_Telling(future, telling) for future in futures or ()]

  def finalize_telling(*args):
    with telling():
      return finalize(*args)

  handler.async_save, handler.finalize = save_telling, finalize_telling


class _Telling:
  """One of Orbax's futures, whose result is waited for under a context."""

  def __init__(self, future: Any, context: Callable[[], Any]):
    self._future, self._context = future, context

  def result(self, timeout: float | None = None) -> Any:
    with self._context():
      return self._future.result(timeout=timeout)

  def cancel(self) -> bool | None:
    return self._future.cancel()


def _make_writable(directory: pathlib.Path) -> None:
  try:
    directory.mkdir(parents=True, exist_ok=True)
    is_writable = os.access(directory, os.W_OK)
    reason = "you may not write there"
  except OSError as e:
    is_writable, reason = False, str(e)
  if not is_writable:
    raise OSError(
      f"cannot keep checkpoints in {directory}: {reason}. Choose another"
      " workdir."
    )


def _is_complete(folder: pathlib.Path) -> bool:
  # Orbax writes this file last, before the rename that shows the folder.
  return (folder / "_CHECKPOINT_METADATA").is_file() and all(
    (folder / item).is_dir() for item in _ITEMS
  )


def _set_aside_incomplete(directory: pathlib.Path) -> None:
  """Renames STEP folders that are not complete, so that Orbax skips them."""
  for folder in sorted(directory.iterdir()):
    if folder.name.isdigit() and not _is_complete(folder):
      logging.warning("checkpoint %s is not complete; set aside", folder)
      aside = folder.with_name(f"{folder.name}.incomplete.{os.getpid()}")
      folder.rename(aside)
