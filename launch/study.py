"""Runs a whole study: data, students side by side, evaluation, report.

    python launch/study.py quickstart --workdir=runs/quickstart
    python launch/study.py reproduce --workdir=runs/reproduce

Only calls the package's own commands, each of which resumes: run again after
an interruption, it goes on where it was. Students train side by side, each with
as many threads as half of the machine's cores.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from vpd_jax import host

# Two small models with half of the cores each train faster than one after the
# other with all.
NUM_LANES = 2


@dataclasses.dataclass(frozen=True)
class Arm:
  """One student.

  Attributes:
    name: of its folder, and in tables.
    arm: argument of configs/world_vpd.py.
    variant: of the data, argument of configs/data_gen/world.py.
  """

  name: str
  arm: str
  variant: str = "filtered"


QUICKSTART = (
  Arm("vpd", "vpd"),
  Arm("twin_equal_compute", "twin_equal_compute"),
  Arm("twin", "twin"),
)
REPRODUCE = (
  *QUICKSTART,
  Arm("clean", "vpd", "clean"),
  Arm("replay", "replay"),
  Arm("unfiltered", "vpd", "unfiltered"),
  Arm("k1", "vpd", "k1"),
  Arm("pseudo", "vpd", "pseudo"),
  Arm("pseudo_twin", "twin", "pseudo"),
  Arm("mismatched", "vpd", "mismatched"),
)


class Study:
  """The folders of a study, and how its commands are run."""

  def __init__(
    self, workdir: pathlib.Path, size: str = "quickstart", steps: int = 0
  ):
    """Initialises.

    Args:
      workdir: of the study.
      size: of the data, argument of configs/data_gen/world.py.
      steps: of training; 0 leaves the config's own number.
    """
    self.workdir, self.size, self.steps = workdir, size, steps
    self.runs = workdir / "runs"
    self._lock = threading.Lock()
    self._base_locks = collections.defaultdict(threading.Lock)
    self._timings_path = workdir / "timings.json"

  def data(self, variant: str) -> pathlib.Path:
    """Workdir of a data variant."""
    name = "world" if variant == "filtered" else f"world_{variant}"
    return self.workdir / name

  def run(
    self, name: str, command: Sequence[str], is_beside: bool = False
  ) -> None:
    """Runs a command of this Python; ends the study if it fails.

    Seconds add up in WORKDIR/timings.json over interrupted runs.

    Args:
      name: in messages and timings.
      command: arguments of Python.
      is_beside: others run at the same time: it gets as many threads as half of
        the cores.
    """
    start = time.monotonic()
    env = dict(os.environ)
    if is_beside:
      threads = max(1, host.usable_cores() // NUM_LANES)
      env[host.THREADS_VARIABLE] = str(threads)
    try:
      done = subprocess.run([sys.executable, *command], env=env, check=False)
    finally:
      self._add_seconds(name, time.monotonic() - start)
    if done.returncode:
      sys.exit(
        f"error: {name} ended with code {done.returncode}; its message is"
        " above. Run the same command again to go on from here."
      )

  def _add_seconds(self, name: str, seconds: float) -> None:
    with self._lock:
      timings = {}
      if self._timings_path.exists():
        timings = json.loads(self._timings_path.read_text())
      timings[name] = round(timings.get(name, 0.0) + seconds, 1)
      self._timings_path.write_text(json.dumps(timings, indent=2) + "\n")

  def make_data(self, variant: str) -> None:
    """Generates a variant; all but the first reuse its questions and runs."""
    command = [
      "-m",
      "data_gen.run",
      f"--config=configs/data_gen/world.py:size={self.size},variant={variant}",
      f"--workdir={self.data(variant)}",
    ]
    if variant != "filtered":
      command.append(f"--config.reuse={self.data('filtered')}")
    self.run(f"data {variant}", command)

  def measure_tools(self) -> None:
    """Compares what the tools read with what the scenes hold."""
    if not (self.data("filtered") / "tool_accuracy.json").exists():
      flags = [f"--workdir={self.data('filtered')}"]
      self.run("tool accuracy", ["-m", "data_gen.report.tool_accuracy", *flags])

  def base(self, seed: int) -> pathlib.Path:
    """Weights of the base of a seed; the first to ask trains it, others wait."""
    folder = self.workdir / f"base-s{seed}"
    weights = folder / "world_base.npz"
    with self._lock:
      lock = self._base_locks[seed]
    with lock:
      if not weights.exists():
        flags = [
          f"--workdir={folder}",
          f"--data={self.workdir / 'base_data'}",
          f"--seed={seed}",
          f"--steps={self.steps}",
          f"--out={weights}",
        ]
        self.run(
          f"base s{seed}", ["launch/make_base.py", *flags], is_beside=True
        )
    return weights

  def train(
    self,
    arm: Arm,
    seed: int,
    name: str,
    base: pathlib.Path | None = None,
  ) -> None:
    """Trains and evaluates one student from `base`; None: from the shipped."""
    folder = self.runs / name
    steps = f",steps={self.steps}" if self.steps else ""
    flags = [
      f"--config=configs/world_vpd.py:arm={arm.arm},seed={seed}{steps}",
      f"--config.arm={name}",
      f"--config.data_dir={self.data(arm.variant) / 'examples'}",
      f"--workdir={folder}",
    ]
    if base:
      flags.append(f"--config.init={base}")
    if arm.arm == "replay":
      base_data = self.workdir / "base_data" / "mixture" / "examples"
      flags.append(f"--config.input.data.base.dir={base_data}")
    if not (folder / "evaluation.json").exists():
      flags.append("--evaluate")
    self.run(f"train {name}", ["-m", "vpd_jax.train", *flags], is_beside=True)

  def report(self) -> None:
    """Writes WORKDIR/report and prints the table."""
    data = [self.data("filtered")]
    photos = self.workdir / "photos"
    if (photos / "examples" / "manifest.json").exists():
      data.append(photos)
    self.run(
      "report",
      [
        "-m",
        "data_gen.make_report",
        f"--data={','.join(map(str, data))}",
        f"--runs={self.runs}",
        f"--out={self.workdir / 'report'}",
      ],
    )


def in_lanes(jobs: Sequence[Callable[[], object]], lanes: int) -> None:
  """Does so many jobs at a time; a free lane takes the next in order.

  Raises:
    BaseException: the first that a job raised; no job starts after it.
  """
  waiting = collections.deque(jobs)
  failures: list[BaseException] = []
  lock = threading.Lock()

  def work() -> None:
    while True:
      with lock:
        if failures or not waiting:
          return
        job = waiting.popleft()
      try:
        job()
      except BaseException as e:  # SystemExit of a failed command included.
        failures.append(e)

  threads = [threading.Thread(target=work) for _ in range(lanes)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if failures:
    raise failures[0]


def quickstart(study: Study) -> None:
  """One seed, three arms, the shipped base."""
  study.make_data("filtered")
  study.measure_tools()
  # All at once, though there may be two cores: the short one takes its time of
  # both, and then the long ones end together.
  in_lanes(
    [functools.partial(study.train, arm, 0, arm.name) for arm in QUICKSTART],
    len(QUICKSTART),
  )
  study.report()


def reproduce(study: Study, seeds: int) -> None:
  """All arms, several seeds; each seed trains its own base from nothing."""
  for variant in dict.fromkeys(arm.variant for arm in REPRODUCE):
    study.make_data(variant)
  study.measure_tools()
  # Both phases of the base's data; also what the replay arm repeats.
  for phase in ("caption", "mixture"):
    study.run(
      f"data base {phase}",
      [
        "-m",
        "data_gen.run",
        f"--config=configs/data_gen/world_base.py:size={study.size},tasks={phase}",
        f"--workdir={study.workdir / 'base_data' / phase}",
      ],
    )

  def train(arm: Arm, seed: int) -> None:
    study.train(arm, seed, f"{arm.name}-s{seed}", study.base(seed))

  # The arms of the main comparison first: a part of the table is of use too.
  arms = [(arm, seed) for arm in QUICKSTART for seed in range(seeds)]
  arms += [
    (arm, s) for s in range(seeds) for arm in REPRODUCE[len(QUICKSTART) :]
  ]
  in_lanes(
    [functools.partial(study.base, seed) for seed in range(seeds)]
    + [functools.partial(train, arm, seed) for arm, seed in arms],
    NUM_LANES,
  )
  study.report()


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("study", choices=("quickstart", "reproduce"))
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--seeds", type=int, default=3, help="of reproduce")
  parser.add_argument(
    "--size", default="quickstart", help="of the data: tiny is a rehearsal"
  )
  parser.add_argument("--steps", type=int, default=0, help="of training")
  args = parser.parse_args()
  try:
    args.workdir.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    sys.exit(f"error: cannot make the folder {args.workdir}: {e.strerror}")
  study = Study(args.workdir, args.size, args.steps)
  if args.study == "quickstart":
    quickstart(study)
  else:
    reproduce(study, args.seeds)


if __name__ == "__main__":
  main()
