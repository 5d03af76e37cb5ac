"""How fast a run steps, and what share of the machine's peak that is."""

from collections.abc import Mapping

from vpd_jax.logs import goodput, mfu


class Throughput:
  """Rates over the steps since they were last read.

  Time is what the clock counts as "step" and "input": compiling, saving and
  evaluating are left out.
  """

  def __init__(
    self,
    clock: goodput.Goodput,
    batch_size: int,
    flops: mfu.StepFlops,
    *,
    devices: int,
    peak: float | None,
  ):
    """Starts at what the clock says now.

    Args:
      clock: of the run.
      batch_size: examples in a global batch.
      flops: of one step.
      devices: that share it.
      peak: FLOPs per second of a device; None: not known.
    """
    self._clock, self._batch_size, self._flops = clock, batch_size, flops
    self._devices, self._peak = devices, peak
    self._steps, self._tokens = 0, 0.0
    self._at_read = clock.seconds()

  def step(self, metrics: Mapping[str, float]) -> None:
    """Counts a step that is done; "tokens" are its target tokens."""
    self._steps += 1
    self._tokens += metrics.get("tokens", 0.0)

  def read(self) -> dict[str, float]:
    """Rates since the last `read`; empty if no step was counted.

    "mfu" and "hfu" (model and hardware FLOPs over the peak) are there where
    the peak is known.
    """
    now = self._clock.seconds()
    spent = {kind: now[kind] - self._at_read[kind] for kind in now}
    seconds = spent["step"] + spent["input"]
    steps, tokens = self._steps, self._tokens
    self._steps, self._tokens, self._at_read = 0, 0.0, now
    if not steps or seconds <= 0:
      return {}
    rate = steps / seconds / self._devices
    out = {
      "seconds_per_step": seconds / steps,
      "examples_per_s": steps * self._batch_size / seconds,
      "input_wait_share": spent["input"] / seconds,
      "model_tflops_per_s_per_device": self._flops.model * rate / 1e12,
      "hardware_tflops_per_s_per_device": self._flops.hardware * rate / 1e12,
    }
    if tokens:
      out["target_tokens_per_s"] = tokens / seconds
    if self._peak:
      out["mfu"] = self._flops.model * rate / self._peak
      out["hfu"] = self._flops.hardware * rate / self._peak
    return out
