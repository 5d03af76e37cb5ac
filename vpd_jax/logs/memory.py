"""Memory of this process's devices, or of the process where they count none."""

import resource
import sys

import jax


def read() -> dict[str, float]:
  """Gigabytes (2**30 bytes) in use at most so far, on the fullest device.

  Returns:
    "device_peak_gib" and "device_limit_gib" where the devices count (GPU,
    TPU); else "host_peak_gib" of the process, as on a CPU.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("peak_bytes_in_use" in s for s in stats):
    out = {"device_peak_gib": max(s["peak_bytes_in_use"] for s in stats)}
    if all("bytes_limit" in s for s in stats):
      out["device_limit_gib"] = min(s["bytes_limit"] for s in stats)
  else:
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = {"host_peak_gib": peak * unit}
  return {name: number / 2**30 for name, number in out.items()}
