"""XLA's flags for tests, which compile much and compute little.

LLVM's optimisations would double their time; a program is given to LLVM whole,
for cutting it up for several threads takes longer than it saves; and the CPU's
newer way to emit fused loops is five times as slow to compile. What programs
compute is the same.
"""

import importlib.metadata

FLAGS = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  " --xla_cpu_parallel_codegen_split_count=1"
)
# XLA ends a process that is given a flag that it does not know; later versions
# do not have this one.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  FLAGS += " --xla_cpu_use_fusion_emitters=false"


def of_devices(count: int) -> str:
  """Value of XLA_FLAGS for so many simulated CPU devices."""
  return f"{FLAGS} --xla_force_host_platform_device_count={count}"
