"""Eight simulated CPU devices, and strict promotion of ranks and dtypes."""

import atexit
import gc
import os
import shutil
import tempfile

from tests import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
# Of a flag that is set twice, the last counts: the user's, but for devices.
os.environ["XLA_FLAGS"] = (
  f"{xla_flags.FLAGS} {os.environ.get('XLA_FLAGS', '')}"
  " --xla_force_host_platform_device_count=8"
)
# Nobody reads which line an operation of a compiled program came from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# A program is compiled once for all workers, and for the commands they start;
# small ones are compiled again sooner than written.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _FOLDER = tempfile.mkdtemp(prefix="vpd_jax_programs_")
  atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
  os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": _FOLDER,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many small objects that live on, and Python by itself looks
# through them often.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture
def strict_dtypes():
  """No implicit casts; not for code that calls optax, which relies on some."""
  with jax.numpy_dtype_promotion("strict"):
    yield


def pytest_collection_modifyitems(items):
  """Files with slow tests first, so that no worker is left with one at the end."""
  slow = {item.path for item in items if item.get_closest_marker("slow")}
  items.sort(key=lambda item: item.path not in slow)
