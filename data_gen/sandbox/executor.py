"""Runs untrusted programs contained, and tells how each ended.

    with Executor(memory_mb=256) as executor:
      outcome = executor.run(program_text, call_tool)
      for outcome in executor.run_all(jobs, tool_server, in_flight=256): ...

The boundary is the kernel's: a child process per program (see `worker`) with
no file, network, other process, image or answer in reach, whose only way out
is a socket that carries plain data. This side trusts nothing that comes over
it: it counts, checks and cleans, keeps the clock, and ends the child itself.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_gen.sandbox import engine
from data_gen.sandbox import limits as limits_lib
from data_gen.sandbox import session as session_lib
from data_gen.sandbox import zygote as zygote_lib
from data_gen.tools import api, profiles
from data_gen.tools import tool as tool_lib

ERROR_CLASSES = session_lib.ERROR_CLASSES
Outcome = session_lib.Outcome
SandboxError = zygote_lib.SandboxError
layers_text = zygote_lib.layers_text
CallTool = Callable[[str, api.Box, dict[str, Any]], Any]


class Executor:
  """A warm worker process and the limits of its programs.

  Args:
    profile: the API that programs see, a name of `tools.profiles`.
    wall_time_s, cpu_s, memory_mb, max_tool_calls, max_llm_calls,
      max_output_bytes, max_trace_bytes, max_answer_chars: see
      `limits.Limits`.
    allow_unsafe_no_kernel_layer: run although the kernel does not keep
      programs from files or the network. For trusted programs only.

  Raises:
    ValueError: if a limit makes no sense.
    KeyError: if there is no such profile.
    SandboxError: if the worker does not start, or no kernel layer holds.
  """

  def __init__(
    self,
    *,
    profile: str = "vpd",
    wall_time_s: float = 30.0,
    cpu_s: int = 2,
    memory_mb: int = 512,
    max_tool_calls: int = 200,
    max_llm_calls: int = 20,
    max_output_bytes: int = 65536,
    max_trace_bytes: int = 1 << 20,
    max_answer_chars: int = 400,
    allow_unsafe_no_kernel_layer: bool = False,
  ):
    profiles.get(profile)
    self.limits = limits_lib.Limits(
      wall_time_s=wall_time_s,
      cpu_s=cpu_s,
      memory_mb=memory_mb,
      max_tool_calls=max_tool_calls,
      max_llm_calls=max_llm_calls,
      max_output_bytes=max_output_bytes,
      max_trace_bytes=max_trace_bytes,
      max_answer_chars=max_answer_chars,
    )
    self._zygote = zygote_lib.Zygote(
      self.limits, profile, allow_unsafe_no_kernel_layer
    )

  @property
  def layers(self) -> dict[str, Any]:
    """The kernel's layers in force, and what they were seen to forbid."""
    return self._zygote.layers

  def __enter__(self) -> "Executor":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def close(self) -> None:
    """Ends the worker; a second call does nothing."""
    self._zygote.close()

  def run(self, program_text: str, call_tool: CallTool) -> Outcome:
    """Runs one program to its end.

    Args:
      program_text: as the writer gave it; `parse.extract` is applied.
      call_tool: answers `(call, box, arguments)` at once, with a plain value;
        raises `api.ToolRefused` for arguments that the call does not take.
        Anything else that it raises is the run's error "tool_error".

    Returns:
      How it ended. A program's faults, and those of its tools, are outcomes.

    Raises:
      SandboxError: if the worker was lost and does not start again.
    """
    (outcome,) = self.run_all(
      [engine.Job(program_text)], _Direct(call_tool), in_flight=1
    )
    return outcome

  def run_all(
    self,
    jobs: Iterable[engine.Job],
    tools: engine.Tools,
    in_flight: int = 64,
  ) -> Iterator[Outcome]:
    """Runs programs, many at a time; see `engine.Engine`.

    Args:
      jobs: taken as there is room for them.
      tools: answers their calls, such as a `tools.server.ToolServer`.
      in_flight: most programs at a time, from 1 to 512.

    Returns:
      An outcome for each job, in their order.

    Raises:
      ValueError: if `in_flight` is out of range.
      SandboxError: as in `run`.
    """
    return engine.Engine(self._zygote, tools, in_flight=in_flight).run(jobs)


class _Direct:
  """Tools that are a function, called at once."""

  def __init__(self, call_tool: CallTool):
    self._call_tool = call_tool
    self._answers: list[tuple[Any, tool_lib.Answer]] = []

  def submit(self, token, call, image, box, arguments):
    del image
    try:
      value = self._call_tool(call, box or api.WHOLE, arguments)
    except api.ToolRefused as e:
      answer = tool_lib.Answer("refused", message=str(e))
    except Exception as e:  # A tool's fault, of any kind, is this run's error.
      answer = tool_lib.Answer("fault", None, "tool_error", str(e))
    else:
      answer = tool_lib.Answer("value", value)
    self._answers.append((token, answer))

  def poll(self, flush):
    del flush
    answers, self._answers = self._answers, []
    return answers

  def files(self):
    return ()

  def next_deadline_s(self):
    return 0.0 if self._answers else None
