r"""Trains: config -> build -> loop. The whole run reads top to bottom.

    python -m vpd_jax.train --config=configs/world_vpd.py --workdir=runs/vpd \
        --config.optim.lr=3e-4

Run again with the same workdir, it goes on from the last checkpoint, and ends
as an unbroken run would have.

WORKDIR afterwards:
  config.json       resolved config and package versions
  checkpoints/      last states with their input positions
  best/             trained parameters of the best step by `config.select`
  frozen/           the other parameters, if there are any; written once
  metrics.jsonl     one line per logged step; tensorboard/ has the same
  training.json     when it has ended: steps, seconds, FLOPs, best step
"""

from absl import flags
from ml_collections import config_flags

from vpd_jax import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment to run.")
flags.mark_flag_as_required("config")
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where the run is written.", required=True
)


def main(_) -> None:
  """Runs the flags' config."""
  from vpd_jax import host

  host.keep_freed_memory()
  train(CONFIG.value, WORKDIR.value)


def train(config, workdir: str) -> None:
  """Trains to `config.total_steps`, resuming where `workdir` has a checkpoint.

  Raises:
    ValueError: if the config does not fit the devices, the data or the
      checkpoint, or the loss is not finite.
    FileNotFoundError: if data or initial weights are not there.
  """
  import math
  import pathlib

  import jax

  from vpd_jax import build, run_record, step
  from vpd_jax.checkpoint import store
  from vpd_jax.logs import progress, throughput, writer
  from vpd_jax.sharding import place

  parts = build.build(config)
  batches = build.train_batches(config, parts)
  evaluators = build.evaluators(config, parts)
  if config.init and not pathlib.Path(config.init).is_file():
    raise FileNotFoundError(
      f"config.init={config.init}: no such file of weights. The embedded"
      " world's base is weights/world_base.npz, made by make base."
    )
  folder = pathlib.Path(workdir)
  run_record.write(folder, config)

  checkpoints = store.Store(folder / "checkpoints", keep=config.checkpoint.keep)
  best = store.Store(folder / "best", keep=1)
  latest = checkpoints.latest_step()
  if latest is None:
    state = build.init_state(config, parts)
    store.save_frozen(folder / "frozen", state.frozen)
    meta = {"train_seconds": 0.0, "best_value": None, "best_step": 0}
    print(f"{config.arm}: starting at step 0.", flush=True)
  else:
    state, input_state, meta = checkpoints.restore(
      latest, parts.state._replace(frozen={})
    )
    frozen = store.restore_frozen(folder / "frozen", parts.state.frozen)
    state = state._replace(frozen=frozen)
    batches.set_state(input_state)
    print(f"{config.arm}: resuming at step {latest}.", flush=True)

  def is_due(name: str, at_step: int) -> bool:
    every = config.evaluators[name].get("every_steps", 0)
    is_last = at_step == config.total_steps
    return bool(every) and (at_step % every == 0 or is_last)

  def evaluate(at_step: int) -> dict[str, float]:
    metrics = {}
    for name, evaluator in evaluators.items():
      if is_due(name, at_step):
        found = evaluator.run(state.all_params)
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
    value = metrics.get(config.select)
    if value is not None and (
      meta["best_value"] is None or value > meta["best_value"]
    ):
      meta.update(best_value=value, best_step=at_step)
      best.save(at_step, {"params": state.params}, {}, {"value": value})
    return metrics

  start = latest or 0
  log = writer.Writer(folder, resume_step=start)
  bar = progress.Progress(f"train {config.arm}", config.total_steps, start)
  compiled = None
  clock = throughput.Throughput(config.input.batch_size)
  for at_step in range(start + 1, config.total_steps + 1):
    batch = place.put_batch(next(batches), parts.batch_sharding)
    if compiled is None:
      compiled = step.compile_train_step(
        state,
        batch,
        graphdef=parts.graphdef,
        tx=parts.tx,
        loss=parts.loss,
        seed=config.seed,
      )
      # Some backends count none: 0 stands for unknown.
      cost = compiled.cost_analysis() or {}
      meta["flops_per_step"] = float(cost.get("flops", 0.0))
      clock.start()
    state, metrics = compiled(state, batch)
    clock.step()
    is_last = at_step == config.total_steps
    is_saved = at_step % config.checkpoint.every_steps == 0 or is_last
    is_evaluated = any(is_due(name, at_step) for name in evaluators)
    is_logged = at_step % config.log_every_steps == 0 or is_last
    if not (is_saved or is_evaluated or is_logged):
      continue
    jax.block_until_ready(metrics)
    clock.pause()
    values = {key: float(value) for key, value in metrics.items()}
    if not math.isfinite(values["loss"]):
      raise ValueError(
        f"the loss is {values['loss']} at step {at_step}; the last checkpoint"
        f" is of step {checkpoints.latest_step()}. Lower optim.lr or"
        " optim.clip_norm."
      )
    if is_logged:
      values["lr"] = float(jax.device_get(parts.schedule(at_step - 1)))
      values |= clock.read()
      bar.update(
        at_step,
        examples_per_s=values.get("examples_per_s"),
        loss=values["loss"],
      )
      log.write(at_step, values)
    if is_evaluated:
      log.write(at_step, evaluate(at_step))
    if is_saved:
      meta["train_seconds"] += clock.take_seconds()
      best.wait()  # The checkpoint names the best step: it must be there.
      trained = state._replace(frozen={})
      checkpoints.save(at_step, trained, batches.get_state(), meta)
    clock.resume()
  checkpoints.wait()
  run_record.write_training(
    folder,
    {
      "arm": config.arm,
      "seed": config.seed,
      "init": config.init,
      "steps": config.total_steps,
      "best_step": meta["best_step"],
      "best_value": meta["best_value"],
      "train_seconds": meta["train_seconds"],
      "train_flops": meta["flops_per_step"] * config.total_steps,
    },
  )
  log.close()
  bar.close()


if __name__ == "__main__":
  entry.run(main)
