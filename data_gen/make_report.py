"""Entry: data folders and training runs -> summary.json and static HTML.

  python -m data_gen.make_report --data=DIR[,DIR] --runs=DIR --out=DIR

--runs holds one sub-folder per training run; without it the report is about
the data alone. The runs are those evaluated on the first --data. Open
OUT/index.html in a browser; it needs no server and no network.
"""

import pathlib
import sys

from absl import app, flags

from vpd_jax import entry

_DATA = flags.DEFINE_list(
  "data",
  None,
  "Workdirs of data_gen.run, the evaluated one first.",
  required=True,
)
_RUNS = flags.DEFINE_string(
  "runs", None, "Folder with one sub-folder per training run."
)
_OUT = flags.DEFINE_string("out", None, "Folder of the report.", required=True)


def main(argv: list[str]) -> None:
  """Writes the report; the text table goes to stdout."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}")
  from data_gen.report import read, summary, viewer

  data_dirs = [pathlib.Path(folder) for folder in _DATA.value]
  try:
    runs = read.training_runs(pathlib.Path(_RUNS.value)) if _RUNS.value else []
    result = summary.build(data_dirs, runs)
    page = viewer.write(pathlib.Path(_OUT.value), data_dirs, runs, result)
  except (ValueError, OSError) as e:
    sys.exit(f"data_gen.make_report: {e}")
  print(summary.text(result))
  print(f"\nReport: {page.resolve()}")


if __name__ == "__main__":
  app.run(main, flags_parser=entry.parse)
