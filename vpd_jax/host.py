"""What a training process tells its own machine, before JAX starts."""

import ctypes
import os
import platform

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_GIB = 1 << 30


def keep_freed_memory() -> None:
  """Tells glibc to keep freed memory instead of giving it back at once.

  On CPU each step frees and takes the same buffers; given back, their pages
  are faulted in again each step, which on virtual machines took up to half of
  a step. All threads share one arena: those of their own hold no buffer over
  64 MiB, and such a one is mapped and given back each time whatever the limits.
  Does nothing elsewhere than on Linux with glibc.
  """
  if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
    return
  libc = ctypes.CDLL(None)
  libc.mallopt(_M_ARENA_MAX, 1)
  libc.mallopt(_M_MMAP_THRESHOLD, _GIB)
  libc.mallopt(_M_TRIM_THRESHOLD, _GIB)
  libc.mallopt(_M_TOP_PAD, _GIB // 16)


def usable_cores() -> int:
  """Number of cores that this process may run on."""
  return len(os.sched_getaffinity(0))
