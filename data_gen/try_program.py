"""Runs programs contained: one, to see its trace, or a file of them.

    python -m data_gen.try_program --program FILE --image FILE --tools world
    python -m data_gen.try_program --batch IN.jsonl --out OUT.jsonl

One program: exits with 0 if it answered, 1 if it did not. A file: exits with
0 when all were run, whatever came of them. 2 is for bad input.
"""

import argparse
import pathlib
import sys
import time

# The last part of a tool's file name, after "world_" or "photo_".
_SUFFIXES = {
  "find": "find",
  "visual_question_answering": "vqa",
  "image_caption": "caption",
  "compute_depth": "depth",
  "ocr": "ocr",
  "language_question_answering": "knowledge",
  "verify_property": "verify",
  "match_scores": "match",
}
_PREFIXES = {"world": "world", "photos": "photo"}


def main(argv: list[str] | None = None) -> int:
  """The entry point; returns the exit code."""
  parser = _parser()
  args = parser.parse_args(argv)
  if bool(args.batch) != bool(args.out):
    parser.error("--batch and --out go together")
  if args.batch and args.image:
    parser.error("--image goes with --program; rows of --batch name their own")
  # Imported late, so that --help answers at once.
  from data_gen.sandbox import executor
  from data_gen.tools import server

  try:
    with (
      executor.Executor(
        profile=args.api, wall_time_s=args.wall_time_s
      ) as sandbox,
      server.ToolServer(
        tools_of(args.tools), cache_dir=args.cache_dir
      ) as tools,
    ):
      text = executor.layers_text(sandbox.layers)
      print(f"sandbox: {text}", file=sys.stderr)
      if args.batch:
        return _run_batch(args, sandbox, tools)
      return _run_one(args, sandbox, tools)
  except (
    *(ValueError, KeyError, OSError, ImportError),
    *(executor.SandboxError, server.ToolServerError),
  ) as e:
    message = e.args[0] if isinstance(e, KeyError) else e
    print(f"error: {message}", file=sys.stderr)
    return 2


def _run_one(args, sandbox, tools) -> int:
  from data_gen.programs import batch
  from data_gen.sandbox import engine

  try:
    text = args.program.read_bytes().decode()
  except OSError as e:
    raise OSError(f"cannot read {args.program}: {e.strerror}") from e
  image = batch.read_image(args.image) if args.image else None
  (outcome,) = sandbox.run_all([engine.Job(text, image)], tools, in_flight=1)
  print(render(outcome))
  return 0 if outcome.status == "ok" else 1


def _run_batch(args, sandbox, tools) -> int:
  from data_gen.programs import batch

  start_s = time.monotonic()
  counts = batch.run(args.batch, args.out, sandbox, tools, args.in_flight)
  seconds = time.monotonic() - start_s
  total = counts.total()
  print(f"{total} programs in {seconds:.1f} s, {total / seconds:.0f} a second")
  for error_class, number in counts.most_common():
    print(f"  {number:8}  {error_class or 'ok'}")
  return 0


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
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--program", type=pathlib.Path, help="file with a program")
  what.add_argument(
    "--batch",
    type=pathlib.Path,
    metavar="IN.jsonl",
    help='rows {"id", "program", and optionally "image" and "gold"}; image'
    " paths count from this file's folder",
  )
  parser.add_argument(
    "--out", type=pathlib.Path, metavar="OUT.jsonl", help="rows of --batch"
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
    "--api",
    default="vpd",
    choices=("vpd", "viper"),
    help="the calls that programs may use (default: vpd)",
  )
  parser.add_argument(
    "--in_flight",
    default=64,
    type=int,
    help="most programs of --batch at a time, 1 to 512 (default: 64)",
  )
  parser.add_argument(
    "--wall_time_s",
    default=5.0,
    type=float,
    help="longest time of a program without its tools' (default: 5)",
  )
  parser.add_argument(
    "--cache_dir",
    default="",
    help="folder where tools' answers are kept for later runs",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
