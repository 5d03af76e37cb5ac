"""Runs untrusted programs contained, one at a time, and tells how each ended.

    with Executor(wall_time_s=5.0) as executor:
      outcome = executor.run(program_text, toolbox.bind(image, image_key))

The boundary is the kernel's: a child process per program (see `worker`) with
no file, network, other process, image or answer in reach, whose only way out
is a socket that carries plain data. This side trusts nothing that comes over
it: it counts, checks and cleans, keeps the clock, and ends the child itself.
"""

import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from data_gen.programs import parse
from data_gen.sandbox import frames
from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import session as session_lib

ERROR_CLASSES = session_lib.ERROR_CLASSES
Outcome = session_lib.Outcome
CallTool = session_lib.CallTool

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 30.0
_GRACE_S = 0.5


class SandboxError(RuntimeError):
  """The sandbox itself cannot work here, whatever the program."""


class Executor:
  """A warm worker process and the limits of its programs.

  Args:
    wall_time_s, cpu_s, memory_mb, max_tool_calls, max_output_bytes,
      max_answer_chars: see `limits.Limits`.
    allow_unsafe_no_kernel_layer: run although the kernel does not keep
      programs from files or the network. For trusted programs only.

  Raises:
    ValueError: if a limit makes no sense.
    SandboxError: if the worker does not start, or no kernel layer holds.
  """

  def __init__(
    self,
    *,
    wall_time_s: float = 5.0,
    cpu_s: int = 2,
    memory_mb: int = 512,
    max_tool_calls: int = 200,
    max_output_bytes: int = 65536,
    max_answer_chars: int = 400,
    allow_unsafe_no_kernel_layer: bool = False,
  ):
    self.limits = limits_lib.Limits(
      wall_time_s,
      cpu_s,
      memory_mb,
      max_tool_calls,
      max_output_bytes,
      max_answer_chars,
    )
    self._allow_unsafe = allow_unsafe_no_kernel_layer
    self._start()

  @property
  def layers(self) -> dict[str, Any]:
    """The kernel's layers in force, and what they were seen to forbid."""
    return dict(self._layers)

  def __enter__(self) -> "Executor":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def close(self) -> None:
    """Ends the worker; a second call does nothing."""
    self._control.close()
    try:
      self._process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    assert self._process.stderr is not None
    self._process.stderr.close()

  def run(self, program_text: str, call_tool: CallTool) -> Outcome:
    """Runs one program to its end.

    Args:
      program_text: as the writer gave it; `parse.extract` is applied.
      call_tool: answers `(call, box, arguments)`; see `Toolbox.bind`.

    Returns:
      How it ended. A program's faults, and those of its tools, are outcomes.

    Raises:
      SandboxError: if the worker was lost and does not start again.
    """
    try:
      return self._attempt(program_text, call_tool)
    except _WorkerLost:
      self._restart()
    try:
      return self._attempt(program_text, call_tool)
    except _WorkerLost:
      self._restart()
      session = session_lib.Session(self.limits, call_tool)
      return session.outcome("worker_died", "the sandbox's process was ended")

  def _attempt(self, program_text, call_tool):
    program_text = program_text[: parse.MAX_COMPLETION_CHARS + 1]
    session = session_lib.Session(self.limits, call_tool)
    ours, theirs = socket.socketpair()
    with ours:
      with theirs:
        try:
          socket.send_fds(self._control, [b"r"], [theirs.fileno()])
        except OSError as e:
          raise _WorkerLost from e
      grace_s = 0.0
      try:
        ending = session.drive(ours, program_text)
        grace_s = 0.0 if ending else _GRACE_S
      finally:
        code, cpu_s = self._end_child(grace_s)
      return session.outcome(*(ending or self._ending_of(code, cpu_s)))

  def _end_child(self, grace_s):
    """Has the child ended, after a time to leave by itself; how it ended."""
    try:
      if not grace_s or not self._has_reply(grace_s):
        self._control.sendall(b"k")
      self._control.settimeout(_END_TIMEOUT_S)
      ended = self._replies.next()
      return ended["code"], ended["cpu_s"]
    except (OSError, EOFError) as e:
      raise _WorkerLost from e

  def _has_reply(self, timeout_s):
    return bool(select.select([self._control], [], [], timeout_s)[0])

  def _ending_of(self, code, cpu_s):
    """(error class, message) of a child that left without a last word."""
    limits = self.limits
    if code == limits_lib.EXIT_MEMORY:
      return "memory", session_lib.limit_text(
        f"{limits.memory_mb} MB", "memory_mb"
      )
    if code == limits_lib.EXIT_OUTPUT:
      return session_lib.output_ending(limits)
    is_killed = code == -signal.SIGKILL and cpu_s >= limits.cpu_s
    if code == -signal.SIGXCPU or is_killed:
      return "cpu_time", session_lib.limit_text(
        f"{limits.cpu_s} s of CPU", "cpu_s"
      )
    if code < 0:
      return "worker_died", f"ended by {signal.Signals(-code).name}"
    return "worker_died", f"ended with exit code {code}"

  def _start(self):
    self._control, theirs = socket.socketpair()
    self._replies = frames.Reader(self._control.recv)
    fd = theirs.fileno()
    limits = json.dumps(dataclasses.asdict(self.limits))
    worker = pathlib.Path(__file__).with_name("worker.py")
    # As -I, less -E: the hash seed is fixed, so sets keep their order.
    flags = ("-s", "-S", "-P", "-B")
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:  # Where libpython is, in some builds.
      environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, *flags, str(worker), str(fd), limits],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(fd,),
        env=environment,
        start_new_session=True,
      )
    self._control.settimeout(_START_TIMEOUT_S)
    try:
      self._layers = self._replies.next()
    except (OSError, EOFError, frames.FrameError) as e:
      self._process.kill()
      _, errors = self._process.communicate()
      self._control.close()
      lines = errors.decode(errors="replace").strip().splitlines()
      raise SandboxError(
        f"the sandbox's worker did not start: {(lines or ['no message'])[-1]}"
      ) from e
    if not self._allow_unsafe and not is_contained(self._layers):
      layers = self.layers
      self.close()
      raise SandboxError(
        "this host's kernel offers no layer that keeps programs from files "
        f"and the network: {layers}. Allow seccomp or user namespaces, or "
        "set sandbox.allow_unsafe_no_kernel_layer=True for trusted programs."
      )

  def _restart(self):
    self._process.kill()
    self.close()
    self._start()


def is_contained(layers: Mapping[str, Any]) -> bool:
  """Whether these layers keep a program from files and from the network."""
  no_network = "network" in layers["namespaces"]
  no_network = no_network or "sockets" in layers["forbidden"]
  return no_network and "files" in layers["forbidden"]


class _WorkerLost(Exception):
  """The warm parent is gone."""
