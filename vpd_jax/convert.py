r"""Weights of other projects in and out, file to file, in little memory.

    python -m vpd_jax.convert --from=hf:DIR --to=DIR
    python -m vpd_jax.convert --from=big_vision:FILE.npz --to=DIR
    python -m vpd_jax.convert --from=DIR --to=hf:DIR

A PaLI is put together from two models, each hf: or, the image, big_vision:

    python -m vpd_jax.convert --image=hf:DIR --text=hf:DIR --to=DIR

and written as folders of --to named after its parts. The projection between
them is nobody's: it starts anew, or comes from a folder of ours that has one,
--projection=DIR. Our folder is what `config.init` takes. --check also compares
outputs with transformers', which needs torch: pip install 'vpd_jax[parity]'.

Adapters of peft are merged in, into a folder of ours:

    python -m vpd_jax.convert --from=BASE --peft=ADAPTER_DIR --to=DIR

For images of another size, on the way in or later, from ours to ours:

    python -m vpd_jax.convert --from=DIR --to=DIR --image_px=448

--options='{"has_lm_head": true}' sets what no foreign file decides.
"""

import json
from typing import Any

from absl import flags

from vpd_jax import entry

FROM = flags.DEFINE_string("from", None, "hf:DIR, big_vision:FILE or DIR.")
IMAGE = flags.DEFINE_string("image", None, "The image side: hf:, big_vision:.")
TEXT = flags.DEFINE_string("text", None, "The language side: hf:DIR.")
PROJECTION = flags.DEFINE_string(
  "projection", None, "Folder of ours with what no foreign model has."
)
TO = flags.DEFINE_string("to", None, "DIR, or hf:DIR.", required=True)
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "To write in."
)
PEFT = flags.DEFINE_string("peft", None, "Folder of adapters to merge in.")
IMAGE_PX = flags.DEFINE_integer("image_px", None, "Side of images, in ours.")
OPTIONS = flags.DEFINE_string(
  "options", "{}", "More keyword arguments of our model, as a JSON object."
)
CHECK = flags.DEFINE_bool("check", False, "Compare with transformers.")


def main(_) -> None:
  """Runs the flags' conversion."""
  import ml_dtypes
  import numpy as np

  from vpd_jax.checkpoint import exchange

  dtype = np.dtype(
    ml_dtypes.bfloat16 if DTYPE.value == "bfloat16" else np.float32
  )
  given = {"image": IMAGE.value, "text": TEXT.value}
  parts: dict[str | None, str] = {
    part: where for part, where in given.items() if where
  }
  if bool(parts) == bool(FROM.value):
    raise ValueError("give --from, or --image and --text.")
  where = FROM.value or ""
  is_ours = bool(where) and exchange.kind(where)[0] == "ours"
  more = _options()
  if is_ours and (more or PROJECTION.value):
    raise ValueError(
      f"--options and --projection are for weights of other projects;"
      f" {FROM.value} has its own."
    )
  if PEFT.value is not None:
    if not is_ours or IMAGE_PX.value is not None or CHECK.value:
      raise ValueError(
        "--peft merges into a folder of ours: --from=DIR --peft=DIR --to=DIR,"
        " without hf:, --image_px and --check."
      )
    if TO.value.startswith("hf:"):
      raise ValueError("--peft makes a folder of ours: --to=DIR.")
    report = exchange.merge(where, PEFT.value, TO.value, dtype)
  elif TO.value.startswith("hf:"):
    if not is_ours:
      raise ValueError(
        "--to=hf:DIR writes a model of ours: --from=DIR, without hf: or"
        " big_vision: in front."
      )
    if IMAGE_PX.value is not None:
      raise ValueError("--image_px makes a folder of ours: --to=DIR.")
    report = exchange.export(
      where, TO.value.removeprefix("hf:"), dtype, is_checked=CHECK.value
    )
  elif is_ours and IMAGE_PX.value is not None:
    if CHECK.value:
      raise ValueError("--check compares with transformers: --from=hf:DIR.")
    report = exchange.resize(where, TO.value, dtype, IMAGE_PX.value)
  else:
    report = exchange.bring_in(
      parts or {None: where},
      TO.value,
      dtype,
      projection=PROJECTION.value,
      changes=more,
      image_px=IMAGE_PX.value,
      is_checked=CHECK.value,
    )
  print("\n".join(report))


def _options() -> dict[str, Any]:
  try:
    found = json.loads(OPTIONS.value)
  except ValueError as e:
    raise ValueError(f"--options={OPTIONS.value} is not JSON: {e}.") from e
  if not isinstance(found, dict):
    raise ValueError(f"--options={OPTIONS.value} is no JSON object.")
  return found


if __name__ == "__main__":
  entry.run(main)
