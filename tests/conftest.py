"""Eight simulated CPU devices, and strict promotion of ranks and dtypes."""

import os

from tests import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
# Of a flag that is set twice, the last counts: the user's, but for devices.
os.environ["XLA_FLAGS"] = (
  f"{xla_flags.FLAGS} {os.environ.get('XLA_FLAGS', '')}"
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
