"""Decoding compiled once per model structure, settings and shapes.

generate = compiled.of(loop.generate, graphdef, max_new_tokens=32, eos_id=1)
found = generate(params, image, prompt)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def of(
  function: Callable[..., Any], graphdef: nnx.GraphDef, **settings: Any
) -> Callable[..., Any]:
  """`function` of a model as a compiled function of the model's parameters.

  Two of the same function, structure and settings share what was compiled.

  Args:
    function: `loop.generate`, `loop.greedy`, `beam.search` or
      `score.score_options`, which take a model first.
    graphdef: the model's structure, from `nnx.split`.
    **settings: keyword arguments that the program depends on; hashable.

  Returns:
    (params, *arrays, **arrays) -> what `function` returns; arrays by keyword
    are such as `key`.
  """
  static = tuple(sorted(settings.items()))
  return functools.partial(_call, function, graphdef, static)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _call(function, graphdef, static, params, *arrays, **named):
  model = nnx.merge(graphdef, nnx.State(params))
  return function(model, *arrays, **dict(static), **named)
