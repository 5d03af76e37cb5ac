"""Measures the program engine: ratio, containment, memory; prints a table.

    python benchmarks/engine.py                       # all parts, 10 minutes
    python benchmarks/engine.py --parts=containment,memory
    python benchmarks/engine.py --out=benchmarks/results/engine.json

Programs are those that the embedded writer gives for the embedded world's
questions, mistakes included. "sequential" is an honest loop of the kind that
ViperGPT runs: exec in this process, one tool call at a time, no cache.
Simulated models take 20 ms a batch and 2 ms an item on top of the embedded
tool that answers.
"""

import argparse
import datetime
import hashlib
import io
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
import PIL.Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import slow_tool  # noqa: E402
from data_gen import records, run, shard_files  # noqa: E402
from data_gen.programs import parse  # noqa: E402
from data_gen.sandbox import engine, executor  # noqa: E402
from data_gen.tools import api, server, toolbox  # noqa: E402
from data_gen.tools import tool as tool_lib  # noqa: E402
from tests import configs  # noqa: E402

PARTS = ("ratio", "containment", "memory", "flat")
CALLS = ("find", "visual_question_answering", "compute_depth", "ocr")
LIMITS = {"wall_time_s": 60.0, "cpu_s": 4}
NUM_PROGRAMS = 5
# A program with two kinds of calls, a loop and a printed fact.
SMALL = """\
def execute_command(image):
  cars = ImagePatch(image).find("car")
  print(f"The first car is at {cars[0]}.")
  red = [c for c in cars if c.visual_question_answering("Is it red?") == "yes"]
  return formatting_answer(len(red))
"""


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--questions", type=int, default=500, help="of ratio")
  parser.add_argument("--programs", type=int, default=20_000, help="of flat")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  unknown = set(args.parts.split(",")) - set(PARTS)
  if unknown:
    parser.error(f"no parts {sorted(unknown)}; there are {PARTS}")
  rows: list[dict[str, Any]] = []
  for part in args.parts.split(","):
    if part == "ratio":
      rows += ratio(args.questions)
    elif part == "containment":
      rows += containment()
    elif part == "memory":
      rows += memory()
    else:
      rows += flat(args.programs)
  result = {
    "date": datetime.date.today().isoformat(),
    "command": " ".join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
    "python": platform.python_version(),
    "kernel": platform.release(),
    "cores": len(os.sched_getaffinity(0)),
    "rows": rows,
  }
  print("\n| measured | value |\n| --- | --- |")
  for row in rows:
    print(f"| {row['measured']} | {row['value']} |")
  if args.out:
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def ratio(num_questions: int) -> list[dict[str, Any]]:
  """The same programs through the sequential loop and through the engine."""
  jobs = _world_jobs(num_questions)
  tools = {
    call: {"name": "benchmarks.slow_tool", "call": call} for call in CALLS
  }
  print(f"ratio: {len(jobs)} programs, sequential", flush=True)
  start_s = time.perf_counter()
  answers, num_calls = _sequential(jobs)
  sequential_s = time.perf_counter() - start_s
  print("ratio: engine", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    seconds, stats, outcomes = [], [], []
    for _ in range(2):  # The second time from the cache on disk.
      with (
        executor.Executor(**LIMITS) as sandbox,
        server.ToolServer(tools, cache_dir=folder) as tool_server,
      ):
        start_s = time.perf_counter()
        outcomes = list(sandbox.run_all(jobs, tool_server, in_flight=256))
        seconds.append(time.perf_counter() - start_s)
        stats.append(tool_server.stats()["calls"])
  same = sum(o.answer == a for o, a in zip(outcomes, answers, strict=True))
  counts = {
    key: sum(call[key] for call in stats[0].values())
    for key in ("calls", "executed", "batches", "joined", "memory_hits")
  }
  return [
    _row("programs, tool calls of the loop", f"{len(jobs)}, {num_calls}"),
    _row("sequential loop", f"{sequential_s:.1f} s"),
    _row("engine, empty cache", f"{seconds[0]:.1f} s"),
    _row("ratio", f"{sequential_s / seconds[0]:.1f}x"),
    _row("engine, cache of the run before", f"{seconds[1]:.1f} s"),
    _row("ratio with the cache", f"{sequential_s / seconds[1]:.1f}x"),
    _row("engine's calls: " + ", ".join(counts), list(counts.values())),
    _row("programs with the same answer in both", f"{same} of {len(jobs)}"),
  ]


def containment() -> list[dict[str, Any]]:
  """What the sandbox costs a program whose tools answer at once."""

  def call_tool(call, box, arguments):
    del box, arguments
    return [[0, 0, 99, 99], [9, 9, 300, 300]] if call == "find" else "yes"

  def once(do):
    start_s = time.perf_counter()
    do()
    return 1e3 * (time.perf_counter() - start_s)

  with executor.Executor(**LIMITS) as sandbox:
    alone_ms, plain_ms = [], []
    for _ in range(500):  # In turns, so that both meet the same machine.
      alone_ms.append(once(lambda: sandbox.run(SMALL, call_tool)))
      plain_ms.append(once(lambda: _exec(SMALL, call_tool)))
  jobs = [engine.Job(SMALL)] * 3000
  tools = {
    call: {"name": "stub", "call": call}
    for call in ("find", "visual_question_answering")
  }
  with (
    executor.Executor(**LIMITS) as sandbox,
    server.ToolServer(tools) as tool_server,
  ):
    start_s = time.perf_counter()
    outcomes = list(sandbox.run_all(jobs, tool_server, in_flight=64))
    per_s = len(jobs) / (time.perf_counter() - start_s)
  assert all(outcome.answer == "2" for outcome in outcomes)
  cost_ms = statistics.median(alone_ms) - statistics.median(plain_ms)
  return [
    _row("plain exec, median", f"{statistics.median(plain_ms):.2f} ms"),
    _row("contained, one at a time, median", f"{_median(alone_ms)} ms"),
    _row("cost of containment, median", f"{cost_ms:.2f} ms"),
    _row("contained, 64 in flight", f"{per_s:.0f} programs a second"),
  ]


def memory() -> list[dict[str, Any]]:
  """All processes together while 256 programs wait for one tool."""

  class Held:
    """Answers nothing till it is told to."""

    def __init__(self):
      self.tokens, self.most_kib = [], 0

    def submit(self, token, call, image, box, arguments):
      del call, image, box, arguments
      self.tokens.append(token)

    def poll(self, flush):
      if not flush:
        return []
      self.most_kib = max(self.most_kib, _tree_kib())
      tokens, self.tokens = self.tokens, []
      return [(t, tool_lib.Answer("value", [[0, 0, 9, 9]])) for t in tokens]

    def files(self):
      return ()

    def next_deadline_s(self):
      return None

  held = Held()
  program = (
    "def execute_command(image):\n  x = list(range(100_000))\n"
    "  return str(len(ImagePatch(image).find('car')) + len(x))\n"
  )
  with executor.Executor(**LIMITS) as sandbox:
    jobs = [engine.Job(program)] * 256
    outcomes = list(sandbox.run_all(jobs, held, in_flight=256))
  assert all(outcome.answer == "100001" for outcome in outcomes)
  return [
    _row(
      "256 in flight, each with a list of 100,000 numbers: all processes, PSS",
      f"{held.most_kib / 2**20:.2f} GiB",
    )
  ]


def flat(num_programs: int) -> list[dict[str, Any]]:
  """All processes together at tenths of a long run."""
  tools = {
    call: {"name": "stub", "call": call}
    for call in ("find", "visual_question_answering")
  }
  seen = []
  with (
    executor.Executor(**LIMITS) as sandbox,
    server.ToolServer(tools) as tool_server,
  ):
    jobs = (
      engine.Job(SMALL.replace("car", f"car{n}")) for n in range(num_programs)
    )
    outcomes = sandbox.run_all(jobs, tool_server, in_flight=64)
    start_s = time.perf_counter()
    for n, outcome in enumerate(outcomes, start=1):
      assert outcome.status == "ok"
      if n % (num_programs // 10) == 0:
        seen.append(_tree_kib() // 1024)
        print(f"flat: {n} programs, {seen[-1]} MiB", flush=True)
    seconds = time.perf_counter() - start_s
  return [
    _row(f"{num_programs} programs, MiB at each tenth (PSS)", seen),
    _row(
      f"{num_programs} programs, each with calls of its own",
      f"{num_programs / seconds:.0f} a second",
    ),
  ]


def _world_jobs(num_questions):
  """The world's questions with their programs."""
  config = configs.load("data_gen/world.py", "size=tiny").to_dict()
  num_images = -(-num_questions // 4)
  config |= {
    "num_workers": 1,
    "stages": ("questions", "programs"),
    "splits": {"train": {"num_images": num_images, "num_shards": 1}},
    "sampling": config["sampling"] | {"num_programs": NUM_PROGRAMS},
  }
  jobs = []
  with tempfile.TemporaryDirectory() as folder:
    run.generate(config, folder)
    base = pathlib.Path(folder)
    (shard,) = shard_files.shards_of(config["splits"])
    questions = shard_files.read_rows(
      records.Question, base / "questions" / f"{shard}.jsonl"
    )
    programs = shard_files.read_groups(
      records.Program, base / "programs" / f"{shard}.jsonl"
    )
    images = shard_files.Images(
      base / "questions" / shard_files.images_name(shard)
    )
    for question, (_, group) in zip(questions, programs, strict=True):
      encoded = images[question.image_id]
      image = tool_lib.Image(hashlib.sha256(encoded).hexdigest(), encoded)
      jobs += [engine.Job(program.text, image) for program in group]
    images.close()
  return jobs[: num_questions * NUM_PROGRAMS]


def _sequential(jobs):
  """Answers (None for a program that failed), and how many calls were made."""
  tools = {call: slow_tool.Tool(call=call) for call in CALLS}
  answers, num_calls = [], 0
  for job in jobs:
    with PIL.Image.open(io.BytesIO(job.image.encoded)) as opened:
      pixels = np.asarray(opened.convert("RGB"))

    def call_tool(call, box, arguments, pixels=pixels, job=job):
      nonlocal num_calls
      num_calls += 1
      toolbox.check_arguments(call, arguments)
      request = tool_lib.Call(
        pixels, job.image.key, box or api.WHOLE, arguments
      )
      return tools[call].run_batch([request])[0]

    try:
      answers.append(_exec(job.program_text, call_tool))
    except Exception:  # As the loop of the field: the program has failed.
      answers.append(None)
  return answers, num_calls


def _exec(text, call_tool):
  names = api.namespace(call_tool) | {"print": lambda *values: None}
  exec(compile(text, "<program>", "exec"), names)
  value = names[parse.NAME](api.Image(call_tool))
  return value if isinstance(value, str) else names["formatting_answer"](value)


def _tree_kib():
  """PSS of this process and all that it started."""
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      stat = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
      continue
    parents[int(path.name)] = int(stat[1])
  total = 0
  for pid in parents:
    above = pid
    while above and above != os.getpid():
      above = parents.get(above, 0)
    if above:
      try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").open():
          if line.startswith("Pss:"):
            total += int(line.split()[1])
      except OSError:
        pass  # It has just ended.
  return total


def _median(values):
  return f"{statistics.median(values):.2f}"


def _row(measured, value):
  print(f"  {measured}: {value}", flush=True)
  return {"measured": measured, "value": value}


if __name__ == "__main__":
  main()
