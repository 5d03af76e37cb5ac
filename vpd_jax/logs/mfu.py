"""Model and hardware FLOPs of a train step, and the share of the peak.

Model FLOPs are what the loss and its gradients need: each part of the forward
pass (`models.flops`) times

  1  nothing trains in it nor below it: forward alone
  2  something below, or an update in it, trains: gradients pass through
  3  its matrices train: their gradients too (in between: as large a share)

for one encoding of each image, and two prompts and targets of each example.
Attention's own products count as those with weights do, though their backward
pass is twice the forward: a LoRA step is counted a few percent low. Hardware
FLOPs add what the backward pass of the model's blocks recomputes. The
optimizer, and what the loss recomputes, are in neither.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vpd_jax import optim, trees
from vpd_jax.models import flops, lora

# bf16 products per second of one JAX device, dense, by the maker's data sheet.
# A chip of TPU v2, v3 and 7x is two devices. The first that fits the start of
# the device's kind counts.
PEAKS: tuple[tuple[str, float], ...] = (
  ("TPU v2", 22.5e12),
  ("TPU v3", 61.5e12),
  ("TPU v4", 275e12),
  ("TPU v5 lite", 197e12),
  ("TPU v5e", 197e12),
  ("TPU v5", 459e12),
  ("TPU v6", 918e12),
  ("TPU7x", 1153.5e12),
  ("TPU v7x", 1153.5e12),
  ("NVIDIA A100", 312e12),
  ("NVIDIA H100 PCIe", 756e12),
  ("NVIDIA H100 NVL", 835e12),
  ("NVIDIA H100", 989e12),
  ("NVIDIA H200", 989e12),
  ("NVIDIA B200", 2250e12),
)


class StepFlops(NamedTuple):
  """Of one step of the whole batch, on all devices together."""

  model: float
  hardware: float


def peak(device_kind: str) -> float | None:
  """FLOPs per second of one JAX device; None where none is known (a CPU)."""
  for start, flops_per_s in PEAKS:
    if device_kind.startswith(start):
      return flops_per_s
  return None


def matrix_sizes(params: Any) -> dict[str, int]:
  """Name -> elements of the matrices among parameters, updates left out.

  Args:
    params: tree of arrays or their shapes.
  """
  is_matrix = trees.flatten_with_names(optim.matrices(params))
  return {
    name: math.prod(x.shape)
    for name, x in trees.flatten_with_names(params).items()
    if is_matrix[name] and not lora.is_update(name)
  }


def multiples(
  sizes: Mapping[str, int],
  trained: Mapping[str, Any],
  patterns: flops.Patterns,
) -> dict[str, float]:
  """How often each part's forward FLOPs count in a step.

  Args:
    sizes: from `matrix_sizes`, of all parameters.
    trained: the names of all parameters that train, updates among them.
    patterns: of the family's `flops.parts`.
  """
  out, is_passed = {}, False
  for part in flops.PARTS:
    own = re.compile("|".join(f"(?:{p})" for p in patterns[part]))
    is_passed |= any(own.match(name) for name in trained)
    matrices = {n: size for n, size in sizes.items() if own.match(n)}
    hits = sum(size for n, size in matrices.items() if n in trained)
    share = hits / max(sum(matrices.values()), 1)
    out[part] = 1.0 + is_passed + share
  return out


def of_step(
  passes: Mapping[str, flops.Forward],
  times: Mapping[str, float],
  *,
  images: int,
  examples: int,
  remat: str = "none",
  vit_remat: str = "none",
) -> StepFlops:
  """FLOPs of a step.

  Args:
    passes: "label", and "rationale" where the loss has it -> the family's
      `forward` for one example.
    times: from `multiples`.
    images, examples: of the whole batch.
    remat, vit_remat: of the model, see `models.stack.REMAT`.
  """
  model = hardware = 0.0
  work = [("image", passes["label"]["image"], images, vit_remat)]
  for forward in passes.values():
    for part in ("encode", "decode", "head"):
      policy = "none" if part == "head" else remat
      work.append((part, forward[part], examples, policy))
  for part, count, rows, policy in work:
    needed = count.total * rows * times[part]
    model += needed
    hardware += needed
    if times[part] > 1:
      hardware += _again(count, policy) * rows
  return StepFlops(model, hardware)


def _again(count: flops.Count, policy: str) -> float:
  """What a policy of recomputation adds to the forward pass's FLOPs."""
  if policy == "full":
    return count.total
  if policy in ("dots", "offload"):
    return count.attention
  return 0.0
