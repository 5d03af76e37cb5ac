"""A finished run's best parameters, for other runs, transformers or peft."""

import pathlib
from typing import Any

import jax.numpy as jnp
from flax import nnx

from vpd_jax import build, initial, run_record, step, trees
from vpd_jax.checkpoint import adapters, model_folder, source, store
from vpd_jax.input import images
from vpd_jax.models import lora, quantized


def write(
  config: Any,
  workdir: str,
  out: str | None,
  adapter: str | None = None,
  dtype: str = "float32",
) -> list[str]:
  """Writes a finished run's best parameters.

  Args:
    config: of the run.
    workdir: of the run.
    out: folder of ours to make, or a file that ends in .npz; None: neither.
    adapter: folder of peft's to make; None: none.
    dtype: of the arrays of a folder of ours.

  Returns:
    Lines of a report.

  Raises:
    FileNotFoundError: if the run in `workdir` has not finished.
    FileExistsError: if a folder holds something.
    ValueError: if there is nothing to write, or no counterpart in peft.
  """
  if out is None and adapter is None:
    raise ValueError("give --out, --peft or both.")
  for path in filter(None, (out, adapter)):
    if pathlib.Path(path).is_dir() and any(pathlib.Path(path).iterdir()):
      raise FileExistsError(f"{path} is not empty; name another folder.")
  parts = build.build(config)
  if adapter is not None and not parts.updates:
    raise ValueError(
      "--peft writes low-rank updates, and this run has none (config.model.lora)"
      "; --out writes its weights."
    )
  folder, report = pathlib.Path(workdir), []
  best_step = run_record.read_training(folder)["best_step"]
  params = initial.restore_best(parts, folder, best_step)
  family = config.model.name
  # What the next run decides for itself.
  options = {n: x for n, x in parts.options.items() if n != "seed"}
  if adapter is not None:
    written = adapters.write(
      adapter,
      family,
      options,
      adapters.of_model(trees.flatten_with_names(params)),
      alpha=parts.updates["alpha"],
      dropout=parts.updates.get("dropout", 0.0),
    )
    report += [f"wrote {path}: adapter, step {best_step}" for path in written]
    trained = trees.flatten_with_names(parts.state.params)
    report += [
      f"trained too, and in no adapter: {name}"
      for name in trained
      if not lora.is_update(name)
    ]
  if out is None:
    return report
  model = quantized.restore(step.merge(parts.graphdef, params))
  lora.merge(model)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  path = pathlib.Path(out)
  if path.suffix == ".npz":
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save_params(path, params)
    return [*report, f"{path}: {path.stat().st_size / 1e6:.1f} MB"]
  rows = parts.row_options
  image = {key: rows.get(f"image_{key}") for key in model_folder.IMAGE_KEYS}
  image["kernel"] = image["kernel"] or images.DEFAULT_KERNEL
  arrays = {
    name: source.in_memory(array, name)
    for name, array in trees.flatten_with_names(params).items()
  }
  model_folder.write(
    path,
    family,
    options,
    arrays,
    jnp.dtype(dtype),
    image={key: value for key, value in image.items() if value is not None},
    step=best_step,
  )
  return [*report, f"wrote {path}: step {best_step}, {dtype}"]
