"""Models in tests: compiled, since one operation at a time is slow."""

import functools
from typing import Any

import jax
from flax import nnx

METHODS = (
  *("encode_image", "encode", "context", "decode", "decode_next", "logits"),
  *("see", "image_features", "text_features", "match_logits", "lm_logits"),
  "similarity",
)


class Compiled:
  """A model whose calls, and methods that take arrays alone, are compiled."""

  def __init__(self, model: nnx.Module):
    self.model = model
    self._parts = nnx.split(model)

  def __call__(self, *arrays: Any) -> Any:
    return _call("__call__", *self._parts, *arrays)

  def __getattr__(self, name: str) -> Any:
    if name in METHODS:
      return functools.partial(_call, name, *self._parts)
    return getattr(self.model, name)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _call(name, graphdef, state, *arrays):
  return getattr(nnx.merge(graphdef, state), name)(*arrays)
