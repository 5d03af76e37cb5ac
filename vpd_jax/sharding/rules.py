"""Logical axis -> mesh axis: one table per strategy."""

from collections.abc import Mapping, Sequence

# "batch" is the leading axis of every input; the others are named by layers.
RULES: dict[str, dict[str, str | tuple[str, ...] | None]] = {
  # Parameters whole on every device.
  "data_parallel": {
    "batch": ("data", "fsdp"),
    "embed": None,
    "mlp": None,
    "heads": None,
    "vocab": None,
    "layers": None,
  },
  # Parameters cut along their width; gathered where they are used.
  "fsdp": {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "mlp": None,
    "heads": None,
    "vocab": None,
    "layers": None,
  },
  # As fsdp, and MLPs, heads and vocabulary cut across the tensor axis.
  "fsdp_tensor": {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
    "layers": None,
  },
}


def get(strategy: str) -> Mapping[str, str | tuple[str, ...] | None]:
  """The table of a strategy; KeyError lists those that exist."""
  if strategy not in RULES:
    raise KeyError(
      f"sharding.strategy={strategy!r} is unknown; there are {sorted(RULES)}."
    )
  return RULES[strategy]


def spec(
  axes: Sequence[str | None],
  rules: Mapping[str, str | tuple[str, ...] | None],
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
