"""Times our models beside those of transformers: training step and decoding.

    python benchmarks/models.py                          # all, 20 minutes
    python benchmarks/models.py --cases=pali --parts=decode --decode-batches=8
    python benchmarks/models.py --out=benchmarks/results/models.json

Needs the extra [parity]. Each side is a process of its own with the same
weights, and they take turns, one warm round each at a time, so that a noisy
machine is noisy for both. Training: forward, backward and AdamW on random
tokens, float32. Decoding: greedy, a batch, all tokens. The torch side runs
every attention and compile setting of `TORCH_SETTINGS`; the fastest counts.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
CASES = ("pali", "t5gemma2")
PARTS = ("train", "decode")
# attention implementation, is torch.compile used
TORCH_SETTINGS = ("sdpa", "eager", "sdpa+compile")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--cases", default=",".join(CASES))
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--settings", default=",".join(TORCH_SETTINGS))
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--train-batches", default="8")
  parser.add_argument("--decode-batches", default="1,4,8")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  rows, versions = [], {}
  for case in args.cases.split(","):
    with tempfile.TemporaryDirectory() as folder:
      args.batch = 1
      weights = Worker("torch", args, folder, "sdpa")
      versions |= weights.ask("make", case)
      weights.close()
      for part in args.parts.split(","):
        for batch in getattr(args, f"{part}_batches").split(","):
          args.batch = int(batch)
          rows.append(compare(case, part, args, folder, versions))
          print(json.dumps(rows[-1]), flush=True)
  result = {
    "date": datetime.date.today().isoformat(),
    "command": " ".join(["python", "benchmarks/models.py", *sys.argv[1:]]),
    "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    "python": platform.python_version(),
    **versions,
    "rows": rows,
  }
  print_table(rows)
  if args.out:
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def compare(case, part, args, folder, versions) -> dict[str, Any]:
  """Takes turns; medians, their ratio, and whether both compute the same."""
  sides = {f"torch {s}": ("torch", s) for s in args.settings.split(",")}
  sides["ours"] = ("jax", "")
  workers, seconds, results = {}, {}, {}
  for name, (kind, setting) in sides.items():
    workers[name] = Worker(kind, args, folder, setting)
    answer = workers[name].ask("prepare", case, part)
    results[name], seconds[name] = answer["result"], []
    versions |= answer["versions"]
  for _ in range(args.rounds):
    for name, worker in workers.items():
      seconds[name].append(worker.ask("round")["seconds"])
  for worker in workers.values():
    worker.close()
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  best = min((n for n in medians if n != "ours"), key=medians.__getitem__)
  return {
    "case": case,
    "part": part,
    "batch": args.batch,
    "dtype": args.dtype,
    "device": args.device,
    "seconds": medians,
    "spread": {n: (min(s), max(s)) for n, s in seconds.items()},
    "fastest_torch": best,
    "ratio": medians[best] / medians["ours"],
    "result": _same(part, results),
  }


def _same(part, results) -> str:
  """What all sides computed, so that what is timed is the same thing."""
  if part == "decode":
    is_same = all(tokens == results["ours"] for tokens in results.values())
    return "equal tokens" if is_same else "tokens differ"
  return ", ".join(f"{name}: loss {loss:.6g}" for name, loss in results.items())


class Worker:
  """One side in a process of its own; a line of JSON asks, one answers."""

  def __init__(self, kind, args, folder, setting):
    options = dict(
      folder=folder,
      setting=setting,
      threads=args.threads,
      device=args.device,
      dtype=args.dtype,
      batch=args.batch,
    )
    self._process = subprocess.Popen(
      [sys.executable, "-m", f"benchmarks.models_{kind}", json.dumps(options)],
      cwd=ROOT,
      env=os.environ
      | ({"JAX_PLATFORMS": "cpu"} if args.device == "cpu" else {}),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def ask(self, *words: str) -> dict[str, Any]:
    assert self._process.stdin and self._process.stdout
    self._process.stdin.write(json.dumps(words) + "\n")
    self._process.stdin.flush()
    for line in self._process.stdout:
      if line.startswith("@"):
        return json.loads(line[1:])
    raise RuntimeError(f"a side ended at {words}; its message is above.")

  def close(self) -> None:
    assert self._process.stdin
    self._process.stdin.close()
    self._process.wait()


def print_table(rows) -> None:
  print(
    f"{'case':10} {'part':8} {'batch':>5} {'torch, best':22} {'ours':>10}"
    f" {'ratio':>6}"
  )
  for row in rows:
    best = row["fastest_torch"]
    theirs = f"{row['seconds'][best]:.3f} s ({best.removeprefix('torch ')})"
    ours = f"{row['seconds']['ours']:.3f} s"
    what = f"{row['case']:10} {row['part']:8} {row['batch']:5}"
    line = f"{what} {theirs:22} {ours:>10}"
    print(f"{line} {row['ratio']:5.2f}x")


if __name__ == "__main__":
  main()
