"""Linux's own walls round the worker: namespaces, Landlock, seccomp.

Each function closes one layer for the calling process and its children, for
good, and needs no package and no privilege; it raises OSError where the host
does not offer the layer. Called in this order: `enter_namespaces`,
`forbid_files` in the warm parent, `drop_privileges`, `filter_syscalls` in
each child. The calls are those of the manual pages unshare(2), landlock(7)
and seccomp(2).
"""

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

_NAMESPACES = {
  "user": 0x10000000,
  "network": 0x40000000,
  "pid": 0x20000000,
  "ipc": 0x08000000,
  "mount": 0x00020000,
}

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
# Landlock's ABI version -> how many of the file rights exist in it.
_LANDLOCK_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}

_EPERM = 1
_SECCOMP_ALLOW = 0x7FFF0000
_SECCOMP_ERRNO = 0x00050000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06

# What an interpreter needs that neither opens, sends nor starts anything.
_SYSCALLS = {
  "x86_64": {
    "read": 0,
    "write": 1,
    "close": 3,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "exit": 60,
    "futex": 202,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "exit_group": 231,
    "getrandom": 318,
  },
  "aarch64": {
    "close": 57,
    "read": 63,
    "write": 64,
    "exit": 93,
    "exit_group": 94,
    "futex": 98,
    "clock_gettime": 113,
    "sched_yield": 124,
    "restart_syscall": 128,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "brk": 214,
    "munmap": 215,
    "mremap": 216,
    "mmap": 222,
    "mprotect": 226,
    "madvise": 233,
    "getrandom": 278,
  },
}
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Kernel:
  """The C library's calls; made once, before files are out of reach."""

  def __init__(self):
    self._libc = ctypes.CDLL(None, use_errno=True)
    machine = platform.machine()
    self._filter = None
    if machine in _SYSCALLS:
      self._filter = _Filter(
        _AUDIT_ARCHITECTURES[machine], list(_SYSCALLS[machine].values())
      )

  def enter_namespaces(self) -> list[str]:
    """Moves into new namespaces; returns their names.

    There is no network in them, and no process but this one's children. The
    process namespace holds from the next fork on.
    """
    names = list(_NAMESPACES)
    uid, gid = os.geteuid(), os.getegid()
    try:
      self._call("unshare", sum(_NAMESPACES.values()))
    except OSError:  # No user namespaces here; root can do without.
      names.remove("user")
      self._call("unshare", sum(_NAMESPACES[name] for name in names))
    else:
      for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
      ):
        with open(f"/proc/self/{file}", "w") as f:
          f.write(text)
    return names

  def empty_root(self) -> None:
    """Replaces the whole file tree by an empty one that is read-only."""
    pivot_root = {"x86_64": 155, "aarch64": 41}.get(platform.machine())
    if pivot_root is None:
      raise OSError(f"no number of pivot_root for {platform.machine()}")
    none = ctypes.c_char_p(None)
    self._mount(none, b"/", none, _MS_REC | _MS_PRIVATE)
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    self._mount(b"tmpfs", b"/tmp", b"tmpfs", flags)
    os.chdir("/tmp")
    self._call("syscall", pivot_root, b".", b".")
    self._call("umount2", b".", _MNT_DETACH)
    os.chdir("/")

  def forbid_files(self) -> int:
    """Forbids every path with Landlock; returns its ABI version."""
    self.forbid_new_privileges()
    version = self._call("syscall", _LANDLOCK_CREATE_RULESET, None, 0, 1)
    rights = _LANDLOCK_FS_RIGHTS.get(version, 16)
    network = 0b11 if version >= 4 else 0  # bind, connect
    scopes = 0b11 if version >= 6 else 0  # abstract sockets, signals
    rules = struct.pack("=QQQ", (1 << rights) - 1, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = self._call("syscall", _LANDLOCK_CREATE_RULESET, rules, size, 0)
    try:
      self._call("syscall", _LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
      os.close(ruleset)
    return version

  def forbid_new_privileges(self) -> None:
    """No program that is started gains rights by its file's set-user bits."""
    self._call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

  def end_with_parent(self) -> None:
    """The kernel ends this process when its parent ends."""
    self._call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)

  def drop_capabilities(self) -> None:
    """Gives up root's powers, those inside a user namespace too."""
    header = struct.pack("=Ii", 0x20080522, 0)  # Version 3, this process.
    self._call("capset", header, bytes(24))

  def filter_syscalls(self) -> None:
    """Allows only reading, writing, memory and exit; others give EPERM."""
    if self._filter is None:
      raise OSError(f"no list of system calls for {platform.machine()}")
    self.forbid_new_privileges()
    pointer = ctypes.byref(self._filter.program)
    self._call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0)

  def _mount(self, source, target, kind, flags):
    self._call("mount", source, target, kind, flags, ctypes.c_char_p(None))

  def _call(self, name, *arguments):
    # Small ints must fill a register where the C function is variadic.
    arguments = [
      ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments
    ]
    result = getattr(self._libc, name)(*arguments)
    if result < 0:
      error = ctypes.get_errno()
      raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


class _Filter:
  """A seccomp program, as struct sock_fprog, with the memory it points to."""

  class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

  def __init__(self, architecture: int, allowed: Sequence[int]):
    steps = [
      (_LOAD, 0, 0, 4),  # The architecture.
      (_JUMP_EQUAL, 0, len(allowed) + 1, architecture),
      (_LOAD, 0, 0, 0),  # The call's number.
    ]
    for i, number in enumerate(allowed):
      steps.append((_JUMP_EQUAL, len(allowed) - i, 0, number))
    steps.append((_RETURN, 0, 0, _SECCOMP_ERRNO | _EPERM))
    steps.append((_RETURN, 0, 0, _SECCOMP_ALLOW))
    packed = b"".join(struct.pack("=HBBI", *step) for step in steps)
    self._code = ctypes.create_string_buffer(packed, len(packed))
    self.program = self._Program(len(steps), ctypes.addressof(self._code))
