"""What one program may use, and the process limits that hold it to that."""

import dataclasses
import resource

EXIT_MEMORY, EXIT_OUTPUT = 77, 78  # A child's exit codes that name a limit.


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of one program; each has its own error class.

  Attributes:
    wall_time_s: longest time from start to answer, tool calls not counted.
      For a program that neither computes nor asks; keep it at ten times
      `cpu_s` or more, so that a busy machine ends nobody.
    cpu_s: processor time, whole seconds.
    memory_mb: address space, the interpreter's own 20 MB included.
    max_tool_calls: tool calls.
    max_llm_calls: those of them that ask a language model.
    max_output_bytes: printed text, UTF-8, and 32 bytes a line.
    max_trace_bytes: all that a trace holds: printed text, arguments, values.
    max_answer_chars: length of an answer.
  """

  wall_time_s: float = 30.0
  cpu_s: int = 2
  memory_mb: int = 512
  max_tool_calls: int = 200
  max_llm_calls: int = 20
  max_output_bytes: int = 65536
  max_trace_bytes: int = 1 << 20
  max_answer_chars: int = 400

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      is_number = isinstance(value, int | float) and not isinstance(value, bool)
      if not is_number or not value > 0:
        raise ValueError(f"{field.name}={value!r} must be a number above 0")
      if field.type is int and not isinstance(value, int):
        raise ValueError(f"{field.name}={value!r} must be a whole number")
    if self.memory_mb < 64:
      raise ValueError(
        f"memory_mb={self.memory_mb} is too little for the interpreter; "
        "try 128 or more"
      )
    if self.max_output_bytes > 2**17:
      raise ValueError(
        f"max_output_bytes={self.max_output_bytes} does not fit a message; "
        f"at most {2**17}"
      )


def printed_bytes(text: str) -> int:
  """What one printed text counts towards `max_output_bytes`."""
  return len(text.encode("utf-8", "replace")) + 32


def apply_rlimits(limits: Limits) -> None:
  """Holds the calling process to `limits`, for good.

  No new files, processes or core dumps either; descriptors that are open stay
  open. Passing `cpu_s` raises SIGXCPU, which ends the process.
  """
  memory = limits.memory_mb * 2**20
  for kind, soft, hard in (
    (resource.RLIMIT_AS, memory, memory),
    (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
    (resource.RLIMIT_NPROC, 0, 0),
    (resource.RLIMIT_FSIZE, 0, 0),
    (resource.RLIMIT_CORE, 0, 0),
    (resource.RLIMIT_NOFILE, 0, 0),
  ):
    resource.setrlimit(kind, (soft, hard))
