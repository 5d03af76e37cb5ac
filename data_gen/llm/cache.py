"""Completions kept on disk, so that no endpoint is asked twice.

`connect` opens any backend; with `cache_dir` in its section, equal requests
to an equal backend are answered from files. A file is named by the hash of
all that decides the answer, and written in one atomic step.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_gen.llm import client
from vpd_jax import lookup


def connect(
  name: str, cache_dir: str | None = None, **options: Any
) -> client.Client:
  """Opens the backend `name` of this folder with its options.

  Args:
    name: a module of `data_gen.llm` with a class `Client`.
    cache_dir: folder to keep completions in; None keeps none.
    **options: the backend's own.

  Raises:
    KeyError: if there is no such backend.
  """
  backend = client_class(name)(**options)
  if cache_dir is None:
    return backend
  return Client(backend, pathlib.Path(cache_dir), options)


def client_class(name: str) -> type:
  """The class `Client` of a backend; KeyError if there is none."""
  module = lookup.module("data_gen.llm", name)
  if name in ("cache", "client") or not hasattr(module, "Client"):
    raise KeyError(f"data_gen.llm.{name} is no backend: it has no Client")
  return module.Client


class Client:
  """A backend with its completions kept in a folder.

  Args:
    backend: that answers what is not there yet.
    folder: where completions are kept.
    options: of the backend; part of a request's identity.
  """

  def __init__(
    self,
    backend: client.Client,
    folder: pathlib.Path,
    options: Mapping[str, Any],
  ):
    self.name = backend.name
    self._backend = backend
    self._folder = folder
    self._options = dict(options)

  def complete(
    self, requests: Sequence[client.Request]
  ) -> list[list[client.Completion]]:
    """See `data_gen.llm.client.Client`."""
    paths = [self._path(request) for request in requests]
    kept = {path: _read(path) for path in paths}
    found = {path: c for path, c in kept.items() if c is not None}
    missing = {
      path: request
      for path, request in zip(paths, requests)
      if path not in found
    }
    answers = self._backend.complete(list(missing.values())) if missing else []
    for path, completions in zip(missing, answers, strict=True):
      _write(path, completions)
      found[path] = completions
    return [found[path] for path in paths]

  def _path(self, request: client.Request) -> pathlib.Path:
    identity = {
      "client": self.name,
      "options": self._options,
      "request": dataclasses.asdict(request),
    }
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return self._folder / digest[:2] / f"{digest}.json"


def _read(path: pathlib.Path) -> list[client.Completion] | None:
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except json.JSONDecodeError as e:
    raise ValueError(f"{path} is damaged ({e}); delete it.") from e
  return [client.Completion(**row) for row in rows]


def _write(path: pathlib.Path, completions: list[client.Completion]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
  rows = [dataclasses.asdict(c) for c in completions]
  temporary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
  os.replace(temporary, path)
