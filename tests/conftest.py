"""Eight simulated CPU devices, and strict promotion of ranks and dtypes."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: LLVM's optimisations would double
# their time. Programs are the same otherwise; a flag already set stays.
os.environ["XLA_FLAGS"] = (
  "--xla_backend_optimization_level=0"
  " --xla_llvm_disable_expensive_passes=true"
  f" {os.environ.get('XLA_FLAGS', '')}"
  " --xla_force_host_platform_device_count=8"
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtypes():
  """No implicit casts; not for code that calls optax, which relies on some."""
  with jax.numpy_dtype_promotion("strict"):
    yield
