"""Measures the input pipeline: rates by stage, by workers, by open files.

    python benchmarks/input.py                        # all parts, 3 minutes
    python benchmarks/input.py --parts=stages
    python benchmarks/input.py --out=benchmarks/results/input.json

Records are made for it: JPEGs of 640 x 480 at quality 90, smooth colours under
noise of two scales so that a file has the size of a photograph's (printed); a
question, an answer and a rationale of about 200 tokens of the world's words.
Rows are for 448 px: prompt 64, label 16, rationale 256. "A CPU second" counts
this process's own time and its workers', so that what others do on the machine
counts little.
"""

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import io
import json
import logging
import multiprocessing
import os
import pathlib
import platform
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vpd_jax.input import (  # noqa: E402
  examples,
  images,
  pipeline,
  records,
  schema,
  tasks,
  tfrecord,
  tokens,
)

PARTS = ("stages", "workers", "groups", "files", "index")
IMAGE_PX = 448
LENGTHS = tasks.Lengths(prompt=64, label=16, rationale=256)
BATCH_SIZE = 16
QUESTIONS = 4
# PaLI-3 at 448 px with LoRA on an H200 at half of its peak, by the count of
# operations: what input has to keep ahead of, threefold.
STEP_EXAMPLES_PER_S = 26.7
CORES = 8


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--images", type=int, default=96)
  parser.add_argument("--seconds", type=float, default=8.0)
  parser.add_argument("--index_records", type=int, default=1_000_000)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  logging.disable(logging.WARNING)  # Shares of filler rows.
  found: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    found["jpeg_kb"] = write(folder, args.images)
    run = {
      "stages": lambda: stages(folder, args.seconds),
      "workers": lambda: by_workers(folder, args.seconds),
      "groups": lambda: groups(folder, args.seconds),
      "files": lambda: files(folder, args.seconds),
      "index": lambda: index(folder, args.index_records),
    }
    for part in args.parts.split(","):
      found[part] = run[part]()
      print(json.dumps({part: found[part]}, indent=2), flush=True)
  result = {
    "date": datetime.date.today().isoformat(),
    "command": " ".join(["python", "benchmarks/input.py", *sys.argv[1:]]),
    "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    "load": os.getloadavg()[0],
    "python": platform.python_version(),
    "packages": {
      name: importlib.metadata.version(name)
      for name in ("grain", "numpy", "pillow", "google-crc32c", "protobuf")
    },
  } | found
  if args.out:
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def picture(seed: int) -> bytes:
  """A JPEG of 640 x 480 at quality 90."""
  rng = np.random.default_rng(seed)
  width, height = 640, 480

  def noise(cells: int, strength: float) -> np.ndarray:
    small = rng.normal(128, strength, (height // cells, width // cells, 3))
    cut = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
    return np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))

  pixels = sum(
    noise(cells, strength).astype(np.float32) - 128
    for cells, strength in ((80, 60), (8, 12), (1, 6))
  )
  file = io.BytesIO()
  image = Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))
  image.save(file, "JPEG", quality=90)
  return file.getvalue()


def write(folder: pathlib.Path, num_images: int) -> float:
  """A split of `QUESTIONS` questions an image; mean kB of a picture."""
  pictures = [picture(seed) for seed in range(num_images)]
  rationale = " ; ".join(["the man at 21 62 229 271 holds a red cup"] * 10)
  frames = []
  for number in range(num_images * QUESTIONS):
    record = {
      "example_id": f"q{number}",
      "image_id": f"i{number % num_images}",
      "image": pictures[number % num_images],
      "question": f"What is the man left of the {number} red cups holding?",
      "answer": "a red cup",
      "rationale": rationale,
    }
    frames.append(tfrecord.frame(schema.serialize(record)))
  for shard in range(4):
    path = folder / f"bench-train.tfrecord-{shard:05d}-of-00004"
    path.write_bytes(b"".join(frames[shard::4]))
  return round(sum(map(len, pictures)) / num_images / 1e3, 1)


def source(folder: pathlib.Path) -> records.RecordSource:
  return records.RecordSource(records.find_shards(folder, "train"))


def rate(work: Callable[[int], Any], count: int, seconds: float) -> float:
  """Calls of `work` a CPU second, on numbers below `count` in turn."""
  work(0)
  calls, start, end = 0, time.process_time(), time.monotonic() + seconds
  while time.monotonic() < end:
    work(calls % count)
    calls += 1
  return calls / (time.process_time() - start)


def stages(folder: pathlib.Path, seconds: float) -> dict[str, Any]:
  """Each stage alone, by one thread."""
  shards = source(folder)
  tokenizer = tokens.load()
  payloads = [shards[i] for i in range(64)]
  parsed = [schema.parse(payload) for payload in payloads]
  decoded = [images.read(record["image"]) for record in parsed[:16]]
  size = (IMAGE_PX, IMAGE_PX)
  work = {
    "read and checksum": lambda i: shards[i],
    "parse": lambda i: schema.parse(payloads[i]),
    "decode JPEG": lambda i: images.read(parsed[i]["image"]),
    "resize, bicubic": lambda i: images.resize(
      decoded[i % 16], size, "bicubic"
    ),
    "tokenise": lambda i: tasks.tokenize(parsed[i], tokenizer, LENGTHS),
  }
  ms = {
    name: round(1e3 / rate(call, 64, seconds / 4), 3)
    for name, call in work.items()
  }
  batches = iterator(folder, num_threads=0)
  per_s = BATCH_SIZE * rate(lambda _: next(batches), 1, seconds)
  return {
    "ms_per_example": ms,
    "examples_per_cpu_s": round(per_s, 1),
    "ms_per_example_whole_path": round(1e3 / per_s, 2),
    "needed_per_core": round(3 * STEP_EXAMPLES_PER_S / CORES, 1),
    "ratio_to_one_step_on_8_cores": round(
      per_s * CORES / STEP_EXAMPLES_PER_S, 1
    ),
  }


def iterator(folder: pathlib.Path, **options) -> pipeline.TrainBatches:
  return pipeline.train_batches(
    [{"dir": folder, "split": "train"}],
    tokens.load(),
    LENGTHS,
    BATCH_SIZE,
    seed=0,
    image_px=IMAGE_PX,
    **options,
  )


@contextlib.contextmanager
def opened(folder: pathlib.Path, **options) -> Iterator[pipeline.TrainBatches]:
  batches = iterator(folder, **options)
  try:
    yield batches
  finally:
    batches.close()


def by_workers(folder: pathlib.Path, seconds: float) -> list[dict[str, Any]]:
  """Wall rates of whole batches, and the time to the first."""
  rows = []
  for num_workers, num_threads in ((0, 0), (0, 1), (0, 2), (1, 1), (2, 1)):
    options = {"num_workers": num_workers, "num_threads": num_threads}
    with opened(folder, **options) as batches:
      start = time.monotonic()
      next(batches)
      first_s = time.monotonic() - start
      for _ in range(4 + 4 * num_workers):  # What was made meanwhile.
        next(batches)
      count, cpu_s, start = 0, cpu_seconds(), time.monotonic()
      while time.monotonic() - start < seconds:
        next(batches)
        count += 1
      wall, cpu_s = time.monotonic() - start, cpu_seconds() - cpu_s
      rows.append(
        options
        | {
          "first_batch_s": round(first_s, 2),
          "examples_per_s": round(count * BATCH_SIZE / wall, 1),
          "cores_used": round(cpu_s / wall, 2),
          "examples_per_cpu_s": round(count * BATCH_SIZE / cpu_s, 1),
        }
      )
  return rows


def cpu_seconds() -> float:
  """CPU seconds of this process and its workers so far; Linux."""
  ticks = os.sysconf("SC_CLK_TCK")
  own = time.process_time()
  for worker in multiprocessing.active_children():
    stat = pathlib.Path(f"/proc/{worker.pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    own += (int(user) + int(system)) / ticks
  return own


def groups(folder: pathlib.Path, seconds: float) -> dict[str, Any]:
  """Four questions an image against one, and the pass over the records."""
  shards, tokenizer = source(folder), tokens.load()
  start = time.process_time()
  examples.ExampleSource(
    shards,
    tokenizer,
    LENGTHS,
    questions_per_image=QUESTIONS,
    image_px=IMAGE_PX,
  )
  scan = len(shards) / (time.process_time() - start)
  batches = iterator(folder, num_threads=0, questions_per_image=QUESTIONS)
  single = iterator(folder, num_threads=0)
  per_s = {
    size: BATCH_SIZE * rate(lambda _, of=of: next(of), 1, seconds)
    for size, of in ((QUESTIONS, batches), (1, single))
  }
  return {
    "examples_per_cpu_s": {size: round(x, 1) for size, x in per_s.items()},
    "ratio": round(per_s[QUESTIONS] / per_s[1], 2),
    "records_scanned_per_cpu_s": round(scan),
  }


def files(folder: pathlib.Path, seconds: float) -> dict[str, Any]:
  """A read that opens its file against one from an open file."""
  shards = source(folder)
  path = records.find_shards(folder, "train")[0]
  size = path.stat().st_size // len(shards) * 4
  descriptor = os.open(path, os.O_RDONLY)

  def kept(_):
    frame = os.pread(descriptor, size, 0)
    tfrecord.masked_crc32c(frame)

  def anew(_):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      frame = os.pread(descriptor, size, 0)
    finally:
      os.close(descriptor)
    tfrecord.masked_crc32c(frame)

  found = {
    "opened for each read": rate(anew, 1, seconds / 4),
    "kept open": rate(kept, 1, seconds / 4),
    "RecordSource": rate(lambda i: shards[i], len(shards), seconds / 4),
  }
  return {name: round(x) for name, x in found.items()}


def index(folder: pathlib.Path, count: int) -> dict[str, Any]:
  """Time and memory of the offsets of many small records."""
  frame = tfrecord.frame(b"x" * 200)
  shards = []
  for shard in range(10):
    shards.append(folder / f"many-{shard}")
    with shards[-1].open("wb") as file:
      for _ in range(count // 10 // 1000):
        file.write(frame * 1000)
  make = functools.partial(records.RecordSource, shards)
  start, own = time.monotonic(), time.process_time()
  made = make()
  wall, own = time.monotonic() - start, time.process_time() - own
  tracemalloc.start()
  kept = make()
  held, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  per_s = rate(lambda i: kept[i * 7919 % len(kept)], len(kept), 2.0)
  return {
    "records": len(made),
    "seconds": round(wall, 2),
    "cpu_seconds": round(own, 2),
    "bytes_per_record": round(held / len(kept), 1),
    "peak_mb_while_made": round(peak / 1e6, 1),
    "random_reads_per_cpu_s": round(per_s),
    "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
  }


if __name__ == "__main__":
  main()
