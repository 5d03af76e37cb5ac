"""Makes the embedded world's base model: data, two phases, one weights file.

    python launch/make_base.py --workdir=runs/base --out=weights/world_base.npz

About fifteen minutes on two CPU cores. Only calls the package's commands, each
of which resumes; run again after an interruption, it goes on where it was.
"""

import argparse
import pathlib
import subprocess
import sys

PHASES = ("caption", "mixture")


def run(*command: str) -> None:
  """Runs a command of this Python; ends with its code if it fails."""
  code = subprocess.run([sys.executable, *command], check=False).returncode
  if code:
    sys.exit(code)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument(
    "--data", type=pathlib.Path, help="made already: not generated"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--steps", type=int, default=0, help="of each phase; 0: the config's"
  )
  args = parser.parse_args()
  data_dir = args.data or args.workdir / "data"
  init = ""
  steps = f",steps={args.steps}" if args.steps else ""
  for phase in PHASES:
    data = data_dir / phase
    if not args.data:
      run(
        *("-m", "data_gen.run"),
        f"--config=configs/data_gen/world_base.py:tasks={phase}",
        f"--workdir={data}",
      )
    is_last = phase == PHASES[-1]
    out = args.out if is_last else args.workdir / f"{phase}.npz"
    flags = [
      f"--config=configs/world_base.py:phase={phase},seed={args.seed}{steps}",
      f"--config.data_dir={data / 'examples'}",
      f"--config.init={init}",
      f"--workdir={args.workdir / phase}",
    ]
    run("-m", "vpd_jax.train", *flags, "--evaluate")
    run("-m", "vpd_jax.export", *flags, f"--out={out}")
    init = str(out)


if __name__ == "__main__":
  main()
