"""What a training process tells its own machine, before JAX starts."""

import ctypes
import os
import platform

# XLA on CPU has at most as many threads as this variable says.
THREADS_VARIABLE = "NPROC"
# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MOST_BYTES = (1 << 31) - 1  # It takes ints.
_NEVER = -1


def keep_freed_memory() -> None:
  """Tells glibc to keep freed memory instead of giving it back at once.

  On CPU each step frees and takes the same buffers; given back, their pages
  are faulted in again each step, which on virtual machines took up to half of
  a step. All threads share one arena: those of their own hold no buffer over
  64 MiB, and such a one is mapped and given back each time whatever the limits.
  Buffers of 2 GiB and more still are. The price: the process keeps what it used
  at its peak, and a buffer that no longer fits between others gets another place,
  so that a process may come to hold twice what a step uses. Does nothing elsewhere
  than on Linux with glibc.
  """
  if not _has_glibc():
    return
  libc = ctypes.CDLL(None)
  if not libc.mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES):
    return  # Older ones refuse it; the rest alone would make things worse.
  libc.mallopt(_M_ARENA_MAX, 1)
  libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
  libc.mallopt(_M_TOP_PAD, 1 << 26)


def give_back_freed_memory() -> None:
  """Gives back once what is free now, such as what reading weights took."""
  if _has_glibc():
    ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
  return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def usable_cores() -> int:
  """Number of cores that XLA uses here; `THREADS_VARIABLE` may limit them."""
  cores = len(os.sched_getaffinity(0))
  limit = os.environ.get(THREADS_VARIABLE, "")
  return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores
