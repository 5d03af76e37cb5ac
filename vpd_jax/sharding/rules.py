"""Logical axis -> mesh axis: one table per strategy.

Layers name their parameters' axes ("embed", "mlp", "heads", "vocab",
"layers"), and here and there those of activations: "batch", and "tokens", the
positions of a long sequence.
"""

import types
from collections.abc import Mapping, Sequence

Rules = Mapping[str, str | tuple[str, ...] | None]

# What each is for: `sharding.mesh`.
MESH_AXES = ("replica", "data", "fsdp", "sequence", "tensor")

_INPUTS: Rules = {"batch": ("replica", "data", "fsdp"), "tokens": "sequence"}
_WHOLE: Rules = dict.fromkeys(("embed", "mlp", "heads", "vocab", "layers"))

RULES: Mapping[str, Rules] = types.MappingProxyType(
  {
    # Parameters whole on every device.
    "data_parallel": {**_INPUTS, **_WHOLE},
    # Parameters cut along their width; gathered where they are used. Devices
    # that share rows of the batch, and cut its images, hold a share each too.
    "fsdp": {**_INPUTS, **_WHOLE, "embed": ("fsdp", "sequence")},
    # As fsdp, and MLPs, heads and vocabulary cut across the tensor axis.
    "fsdp_tensor": {
      **_INPUTS,
      **_WHOLE,
      "embed": ("fsdp", "sequence"),
      "mlp": "tensor",
      "heads": "tensor",
      "vocab": "tensor",
    },
  }
)


def get(strategy: str) -> Rules:
  """The table of a strategy; KeyError lists those that exist."""
  if strategy not in RULES:
    raise KeyError(
      f"sharding.strategy={strategy!r} is unknown; there are {sorted(RULES)}."
    )
  return RULES[strategy]


def spec(
  axes: Sequence[str | None], rules: Rules
) -> list[str | tuple[str, ...] | None]:
  """Mesh axes of an array whose dimensions have these logical names.

  A mesh axis shards one dimension only: where a name would use it again (the
  second "embed" of a square matrix), that dimension stays whole.
  """
  used: set[str] = set()
  out = []
  for axis in axes:
    target = rules[axis] if axis is not None else None
    parts = (target,) if isinstance(target, str) else target or ()
    if not parts or used & set(parts):
      out.append(None)
      continue
    used |= set(parts)
    out.append(target)
  return out
