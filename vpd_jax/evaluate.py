r"""Restores a run's best parameters and runs the config's evaluators once.

    python -m vpd_jax.evaluate --config=configs/world_vpd.py --workdir=runs/vpd

Writes to the workdir, per split: predictions-SPLIT.jsonl; and evaluation.json
with accuracies and what the training cost.
"""

from absl import flags
from ml_collections import config_flags

from vpd_jax import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment to run.")
flags.mark_flag_as_required("config")
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Of the run to evaluate.", required=True
)


def main(_) -> None:
  """Runs the flags' config."""
  from vpd_jax import distributed, host, run_evaluation

  host.keep_freed_memory()
  with distributed.start(CONFIG.value.get("distributed")):
    run_evaluation.write(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
  entry.run(main)
