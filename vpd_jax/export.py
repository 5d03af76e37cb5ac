r"""Writes a run's best parameters as one .npz, for `config.init` of another.

Low-rank updates are merged into the weights they are for; where these were
quantized, into what that left of them.

    python -m vpd_jax.export --config=configs/world_base.py \
        --workdir=runs/base/mixture --out=weights/world_base.npz

Weights are stored as float16: half the size, and the embedded world's base
answers the same.
"""

from absl import flags
from ml_collections import config_flags

from vpd_jax import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Of the run.")
flags.mark_flag_as_required("config")
WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
OUT = flags.DEFINE_string("out", None, "File to write.", required=True)


def main(_) -> None:
  """Runs the flags' config."""
  import pathlib

  from flax import nnx

  from vpd_jax import build, run_record, step
  from vpd_jax.checkpoint import store
  from vpd_jax.models import lora, quantized

  parts = build.build(CONFIG.value)
  folder = pathlib.Path(WORKDIR.value)
  best_step = run_record.read_training(folder)["best_step"]
  params = build.restore_best(parts, folder, best_step)
  model = quantized.restore(step.merge(parts.graphdef, params))
  lora.merge(model)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  out = pathlib.Path(OUT.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  store.save_params(out, params)
  print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
  entry.run(main)
