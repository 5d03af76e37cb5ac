"""Runs one program contained, and shows its trace.

    python -m data_gen.try_program --program FILE --image FILE --tools world

Exits with 0 if the program answered, 1 if it did not, 2 for bad input.
"""

import argparse
import hashlib
import io
import pathlib
import sys

# The last part of a tool's file name, after "world_" or "photo_".
_SUFFIXES = {
  "find": "find",
  "visual_question_answering": "vqa",
  "image_caption": "caption",
  "compute_depth": "depth",
  "ocr": "ocr",
  "language_question_answering": "knowledge",
}
_PREFIXES = {"world": "world", "photos": "photo"}


def main(argv: list[str] | None = None) -> int:
  """The entry point; returns the exit code."""
  args = _parser().parse_args(argv)
  # Imported late, so that --help answers at once.
  from data_gen.sandbox import executor
  from data_gen.tools import toolbox

  try:
    text = _read(args.program).decode()
    image, image_key = _read_image(args.image)
    call_tool = toolbox.Toolbox(tools_of(args.tools)).bind(image, image_key)
    with executor.Executor(wall_time_s=args.wall_time_s) as sandbox:
      outcome = sandbox.run(text, call_tool)
  except (ValueError, OSError, ImportError, executor.SandboxError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  print(render(outcome))
  return 0 if outcome.status == "ok" else 1


def tools_of(profile: str) -> dict[str, dict[str, str]]:
  """The `tools` section of a profile: every call that it has a tool for."""
  from vpd_jax import lookup

  if profile == "stub":
    return {call: {"name": "stub", "call": call} for call in _SUFFIXES}
  known = lookup.names("data_gen.tools")
  names = {
    call: f"{_PREFIXES[profile]}_{suffix}" for call, suffix in _SUFFIXES.items()
  }
  return {call: {"name": name} for call, name in names.items() if name in known}


def render(outcome) -> str:
  """The outcome as text: status, answer or error, and the trace by step."""
  lines = [f"status: {outcome.status}"]
  if outcome.status == "ok":
    lines.append(f"answer: {outcome.answer}")
  else:
    lines.append(f"error class: {outcome.error_class}")
    lines.append(f"message: {outcome.message}")
  lines.append(
    f"tool calls: {outcome.tool_calls}, {outcome.wall_s * 1e3:.1f} ms"
  )
  lines.append("trace:" if outcome.trace else "trace: empty")
  for event in outcome.trace:
    where = f"line {event.line}" if event.line else ""
    lines.append(f"  {event.step:3}  {where:8}  {event.text}")
  return "\n".join(lines)


def _parser():
  parser = argparse.ArgumentParser(
    prog="python -m data_gen.try_program",
    description="Runs one program contained, and shows its trace.",
  )
  parser.add_argument(
    "--program", required=True, type=pathlib.Path, help="file with the program"
  )
  parser.add_argument(
    "--image", type=pathlib.Path, help="image file; stub tools need none"
  )
  parser.add_argument(
    "--tools",
    default="stub",
    choices=("world", "stub", "photos"),
    help="which tools answer its calls (default: stub)",
  )
  parser.add_argument(
    "--wall_time_s",
    default=5.0,
    type=float,
    help="longest time without the tools' (default: 5)",
  )
  return parser


def _read(path):
  try:
    return path.read_bytes()
  except OSError as e:
    raise OSError(f"cannot read {path}: {e.strerror}") from e


def _read_image(path):
  if path is None:
    return None, ""
  import numpy as np
  import PIL.Image

  data = _read(path)
  try:
    with PIL.Image.open(io.BytesIO(data)) as image:
      pixels = np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, ValueError) as e:
    raise ValueError(
      f"{path} is no image that can be decoded ({e}); expected a whole JPEG "
      "or PNG file"
    ) from e
  return pixels, hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
  sys.exit(main())
