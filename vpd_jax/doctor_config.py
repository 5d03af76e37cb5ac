"""Lines of the doctor on a config: its files, mesh, batch and state.

Nothing of the state is allocated. Each process looks at the files it sees.
JAX is imported only where a check needs it: `Line` is for the others too.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_GIB = 1 << 30
# What a step needs beside the state is not counted: this leaves room for it.
MEMORY_SHARE = 0.8


class Line(NamedTuple):
  """One check: level is OK, WARN or FAIL."""

  level: str
  topic: str
  text: str


def lines(config: Any, memory: int | None) -> Iterator[Line]:
  """All checks of a config; those after a failed one may lack.

  Args:
    config: an experiment's.
    memory: bytes of a device, None: not known.
  """
  yield from data_lines(config)
  yield from init_lines(config)
  yield from _model_lines(config, memory)


def data_lines(config: Any) -> Iterator[Line]:
  """A line per split that is read: are its folder and all shards there?"""
  from vpd_jax.input import records

  is_random = config.input.get("synthetic")
  places = {} if is_random else _places("input.data", config.input, "data")
  places |= _places("evaluators", config, "evaluators")
  for (folder, split), key in places.items():
    try:
      shards = records.find_shards(folder, split)
    except (OSError, ValueError) as e:
      yield Line("FAIL", "data", f"config.{key}: {e}")
    else:
      yield Line("OK", "data", f"{split}: {len(shards)} shards in {folder}")


def _places(
  prefix: str, section: Mapping[str, Any], name: str
) -> dict[tuple[str, str], str]:
  """(folder, split) -> the first key of the config that names it."""
  found: dict[tuple[str, str], str] = {}
  for key, entry in (section.get(name) or {}).items():
    if "dir" in entry and "split" in entry:
      place_of = (entry["dir"], entry["split"])
      found.setdefault(place_of, f"{prefix}.{key}")
  return found


def init_lines(config: Any) -> Iterator[Line]:
  """Are the initial weights there, where the config names some?"""
  from vpd_jax.checkpoint import model_folder

  if not config.get("init"):
    return
  path = pathlib.Path(config.init)
  if not path.exists():
    text = "no such file or folder of weights"
  elif path.is_dir() and not model_folder.is_one(path):
    text = (
      f"a folder without {model_folder.NAME}; make one of ours of it:"
      f" python -m vpd_jax.convert --from=hf:{path} --to=DIR"
    )
  else:
    yield Line("OK", "init", str(path))
    return
  yield Line("FAIL", "init", f"config.init={path}: {text}")


def _model_lines(config: Any, memory: int | None) -> Iterator[Line]:
  import jax
  import numpy as np

  from vpd_jax import build
  from vpd_jax.sharding import place

  try:
    parts = build.build(config)
  except (ValueError, KeyError, OSError, ImportError) as e:
    message = e.args[0] if isinstance(e, KeyError) else e
    yield Line("FAIL", "config", str(message))
    return
  mesh = parts.batch_sharding.mesh
  yield Line(
    "OK",
    "mesh",
    ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    + f"; strategy {config.sharding.strategy}",
  )
  ways = place.axis_size(mesh, parts.batch_sharding.spec[0])
  yield Line(
    "OK",
    "batch",
    f"{config.input.batch_size} examples over {ways} ways:"
    f" {config.input.batch_size // ways} each",
  )

  def share(tree: Any) -> int:
    return sum(
      int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
    )

  state = parts.state
  # A gradient is as large as what it is of.
  shares = {
    "trained parameters": share(state.params),
    "gradients": share(state.params),
    "optimizer": share(state.opt_state) + share(state.ema),
    "frozen parameters": share(state.frozen),
  }
  total = sum(shares.values())
  level, advice = "OK", ""
  if memory and total > MEMORY_SHARE * memory:
    level = "FAIL" if total > memory else "WARN"
    advice = (
      f" of {memory / _GIB:.1f} GiB; cut more (a larger sharding.mesh.fsdp with"
      " strategy fsdp), or train less (model.lora)"
    )
  yield Line(
    level,
    "state",
    ", ".join(f"{name} {_size(n)}" for name, n in shares.items() if n)
    + f": {_size(total)} per device{advice}",
  )


def _size(count: int) -> str:
  return f"{count / _GIB:.2f} GiB" if count > 1e8 else f"{count / 1e6:.2f} MB"
