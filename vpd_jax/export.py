r"""Writes a run's best parameters: for other runs, transformers, or peft.

    python -m vpd_jax.export --config=CONFIG --workdir=RUN --out=DIR
    python -m vpd_jax.convert --from=DIR --to=hf:OUT

DIR is a folder of ours, as `convert` makes: `config.init` of another run. Low-
rank updates are merged into the weights they are for; where these were
quantized, into what that left of them. The updates alone, as adapters that
peft loads, one folder for each part where a family has several:

    python -m vpd_jax.export --config=CONFIG --workdir=RUN --peft=DIR

--config is the run's, with the flags it had. An --out that ends in .npz is one
small file, for `config.init`: float16, half the size, and the embedded world's
base answers the same.
"""

from absl import flags
from ml_collections import config_flags

from vpd_jax import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Of the run.")
flags.mark_flag_as_required("config")
WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder, or FILE.npz, to write.")
PEFT = flags.DEFINE_string("peft", None, "Folder of adapters to write.")
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "To write a folder in."
)


def main(_) -> None:
  """Runs the flags' config."""
  from vpd_jax import run_export

  report = run_export.write(
    CONFIG.value, WORKDIR.value, OUT.value, PEFT.value, DTYPE.value
  )
  print("\n".join(report))


if __name__ == "__main__":
  entry.run(main)
