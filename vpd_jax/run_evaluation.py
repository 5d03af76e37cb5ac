"""Evaluates a finished run: what `evaluate`, and `train --evaluate`, write."""

import json
import pathlib
from typing import Any

from vpd_jax import build, distributed, host, initial, run_record
from vpd_jax.logs import progress


def write(config: Any, workdir: str) -> None:
  """Evaluates a finished run. Of several processes, all call it.

  Raises:
    FileNotFoundError: if the run in `workdir` has not finished.
    ValueError: if they are of another model.
  """
  is_main = distributed.is_main()
  parts = build.build(config)
  evaluators = build.evaluators(config, parts)
  folder = pathlib.Path(workdir)
  training = run_record.read_training(folder)
  params = initial.restore_best(parts, folder, training["best_step"])
  report = training | {"cores": host.usable_cores(), "splits": {}}
  bar = progress.Progress(
    f"evaluate {config.arm}", len(evaluators), is_active=is_main
  )
  for number, (name, evaluator) in enumerate(evaluators.items(), start=1):
    evaluator.warm_up(params)
    rows, seconds = evaluator.predict(params)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    if is_main:
      run_record.replace_text(
        folder / f"predictions-{name}.jsonl", "".join(lines)
      )
    report["splits"][name] = (
      evaluator.score(rows)
      | {"num_questions": len(rows)}
      | {
        f"{mode}_seconds_per_question": spent / len(rows)
        for mode, spent in seconds.items()
      }
    )
    bar.update(number, **evaluator.score(rows))
  bar.close()
  if is_main:
    run_record.replace_text(
      folder / "evaluation.json", json.dumps(report, indent=2) + "\n"
    )
