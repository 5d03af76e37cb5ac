r"""Trains: config -> build -> loop. The whole run reads top to bottom.

    python -m vpd_jax.train --config=configs/world_vpd.py --workdir=runs/vpd \
        --config.optim.lr=3e-4

With --evaluate, what `python -m vpd_jax.evaluate` does follows when it has
ended, without a second start.

Run again with the same workdir, it goes on from the last checkpoint, and ends
as an unbroken run would have. A step that is the best so far is saved too.
Where a run starts, by one rule: from its own checkpoint in the workdir, else
from config.init, else from fresh weights.

SIGTERM or Ctrl-C: it saves after the step under way, on all hosts at one step,
and ends with 143 or 130; an evaluation that is due then is done when the run
goes on. A second one ends it at once.

WORKDIR afterwards:
  config.json       resolved config and package versions
  checkpoints/      last states with their input positions
  best/             trained parameters of the best step by `config.select`, or
                    of the last one where it is ""
  frozen/           the other parameters, if there are any; written once
  metrics.jsonl     one line per logged step; tensorboard/ has the same
  profile/          traces of the steps of `config.profile`
  bad_batch.json    of a run that stopped on a loss that was not finite
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
EVALUATE = flags.DEFINE_bool(
  "evaluate", False, "Evaluate the run when it has ended."
)
# What a checkpoint says beside the state, and "seconds" by kind.
_NOTES = {"best_value": None, "best_step": 0, "is_evaluation_due": False}
START_RULE = "its own checkpoint, else config.init, else fresh weights"


def main(_) -> None:
  """Runs the flags' config."""
  from vpd_jax import distributed, host, run_evaluation

  host.keep_freed_memory()
  with distributed.start(CONFIG.value.get("distributed")):
    train(CONFIG.value, WORKDIR.value)
    if EVALUATE.value:
      run_evaluation.write(CONFIG.value, WORKDIR.value)


def train(config, workdir: str) -> None:
  """Trains to `config.total_steps`, resuming where `workdir` has a checkpoint.

  Of several processes, all call it.

  Raises:
    ValueError: if the config does not fit the devices, the data or the
      checkpoint, or the loss is not finite.
    FileNotFoundError: if data or initial weights are not there.
    OSError: if a checkpoint cannot be written; the one before is there.
    stopping.Stopped: after a signal; the run is saved.
  """
  import contextlib
  import pathlib

  import jax

  from vpd_jax import (
    build,
    config_check,
    distributed,
    host,
    initial,
    late,
    run_record,
    stopping,
  )
  from vpd_jax.checkpoint import store
  from vpd_jax.input import prefetch
  from vpd_jax.logs import goodput, memory, mfu, profile, progress, throughput
  from vpd_jax.logs import writer as writer_lib
  from vpd_jax.sharding import place

  clock = goodput.Goodput()
  is_main = distributed.is_main()
  parts = build.build(config)
  batches = build.train_batches(config, parts)
  evaluators = build.evaluators(config, parts)
  if config.init and not pathlib.Path(config.init).exists():
    raise FileNotFoundError(
      f"config.init={config.init}: no such file or folder of weights. The"
      " embedded world's base is weights/world_base.npz, made by make base."
    )
  folder = pathlib.Path(workdir)
  section = config.get("profile", {})
  given = {"self", "folder"}
  config_check.check_keywords(
    profile.Window.__init__, section, "profile", given
  )
  window = profile.Window(folder / "profile", **section)
  config_check.check_names(config.get("log", {}), ("wandb",), "config.log.")
  distributed.check_shared(folder)
  run_record.write(folder, config, is_main=is_main)

  def say(text: str) -> None:
    if is_main:
      print(f"{config.arm}: {text}", flush=True)

  checkpoints = store.Store(folder / "checkpoints", keep=config.checkpoint.keep)
  best = store.Store(folder / "best", keep=1)
  latest = checkpoints.latest_step()
  if latest is None:
    state = initial.init_state(config, parts)
    store.save_frozen(folder / "frozen", state.frozen)
    meta = dict(_NOTES)
    source = f"config.init={config.init}" if config.init else "fresh weights"
    say(f"starting at step 0 from {source} (rule: {START_RULE}).")
  else:
    state, input_state, meta = checkpoints.restore(
      latest, parts.state._replace(frozen={})
    )
    frozen = store.restore_frozen(folder / "frozen", parts.state.frozen)
    state = state._replace(frozen=frozen)
    batches.set_state(input_state)
    clock.add(meta["seconds"])
    if not best.has(meta["best_step"]):
      # Cut off between a better step and its checkpoint: that one comes again.
      meta.update(best_value=None, best_step=0)
    say(
      f"resuming at step {latest} from {folder / 'checkpoints'} (rule:"
      f" {START_RULE})."
    )
  host.give_back_freed_memory()

  def is_due(name: str, at_step: int) -> bool:
    every = config.evaluators[name].get("every_steps", 0)
    is_last = at_step == config.total_steps
    return bool(every) and (at_step % every == 0 or is_last)

  def save_best(at_step: int, value: float | None) -> None:
    meta.update(best_value=value, best_step=at_step)
    # What is evaluated: averages, where they are kept.
    params = state.ema or state.params
    best.save(at_step, {"params": params}, {}, {"value": value})

  def is_evaluated(at_step: int) -> bool:
    return any(is_due(name, at_step) for name in evaluators)

  def evaluate(at_step: int) -> bool:
    """Runs what is due; whether this step is the best so far."""
    metrics = {}
    for name, evaluator in evaluators.items():
      if is_due(name, at_step):
        found = evaluator.run(state.eval_params)
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
    if metrics:
      log.write(at_step, metrics)
    value = metrics.get(config.select)
    before = meta["best_value"]
    is_best = value is not None and (before is None or value > before)
    if is_best or (at_step == config.total_steps and not config.select):
      save_best(at_step, value)
    return is_best

  start = latest or 0
  has_ended = start == config.total_steps
  # A signal left it to this process; or its best step is gone.
  is_late = meta["is_evaluation_due"] or (has_ended and not meta["best_step"])
  log = writer_lib.Writer(
    folder,
    resume_step=start,
    again=[f"{name}/" for name in evaluators if is_late],
    is_active=is_main,
    wandb=config.get("log", {}).get("wandb", ""),
    config=config.to_dict(),
  )
  bar = progress.Progress(
    f"train {config.arm}", config.total_steps, start, is_active=is_main
  )
  rates = throughput.Throughput(
    clock,
    config.input.batch_size,
    parts.flops,
    devices=jax.device_count(),
    peak=mfu.peak(jax.devices()[0].device_kind),
  )
  pending = late.Late()

  def last_saved() -> int | None:
    checkpoints.wait()
    return checkpoints.latest_step()

  def settle(keep: int) -> None:
    """Checks all steps sent off but the last `keep`; logs those that are due."""
    for at_step, values in pending.read(keep):
      late.check(
        at_step,
        values,
        batches,
        folder,
        last_saved,
        is_main=is_main,
      )
      rates.step(values)
      if at_step % config.log_every_steps and at_step != config.total_steps:
        continue
      checkpoints.check()
      values["lr"] = float(
        jax.device_get(parts.optimizer.schedule(at_step - 1))
      )
      values |= rates.read() | memory.read()
      shown = {name: values[name] for name in ("loss", "mfu") if name in values}
      bar.update(at_step, examples_per_s=values.get("examples_per_s"), **shown)
      log.write(at_step, values)

  def save(at_step: int) -> None:
    trained = state._replace(frozen={})
    best.wait()  # The checkpoint names the best step: it must be there.
    meta["seconds"] = clock.seconds()
    checkpoints.save(at_step, trained, ahead.get_state(), meta)

  together = stopping.Together(distributed.gather)

  def is_stopping(at_step: int) -> bool:
    if jax.process_count() == 1:
      return stop.number is not None
    return together.ask(at_step, stop.number is not None)

  def put(batch):
    return place.put_batch(batch, parts.batch_sharding)

  compiled = None
  with (
    checkpoints,
    best,
    contextlib.closing(log),
    contextlib.closing(bar),
    contextlib.closing(window),
    contextlib.closing(batches),
    stopping.Watch() as stop,
    prefetch.prefetch_to_device(batches, put) as ahead,
  ):
    if is_late:
      with clock.during("evaluation"):
        evaluate(start)
      meta["is_evaluation_due"] = False
    for at_step in range(start + 1, config.total_steps + 1):
      with clock.during("input"):
        batch = next(ahead)
      if compiled is None:
        with clock.during("compile"):
          compiled = build.compile_step(config, parts, state, batch)
      with clock.during("step"):
        if window.is_edge(at_step):
          settle(keep=0)
          window.before(at_step)
        state, metrics = compiled(state, batch)
        pending.add(at_step, metrics)
        settle(keep=1)
        is_ending = is_stopping(at_step)
      is_last = at_step == config.total_steps
      is_saved = at_step % config.checkpoint.every_steps == 0 or is_last
      if not (is_saved or is_ending or is_evaluated(at_step)):
        continue
      with clock.during("step"):
        settle(keep=0)
        late.check_state(state._replace(frozen={}), at_step, last_saved)
      if is_ending:
        # There may be little time: no evaluation first.
        meta["is_evaluation_due"] = is_last or is_evaluated(at_step)
      else:
        with clock.during("evaluation"):
          is_saved |= evaluate(at_step)
      if is_saved or is_ending:
        with clock.during("checkpoint"):
          save(at_step)
      if is_ending:
        checkpoints.wait()
        number = stop.number or stopping.SIGNALS[0]
        raise stopping.Stopped(
          number,
          f"{config.arm}: stopped and saved at step {at_step}; run the same"
          " command to go on.",
        )
  with clock.during("checkpoint"):
    checkpoints.wait()
    best.wait()
  seconds = clock.seconds()
  if is_main:
    run_record.write_training(
      folder,
      {
        "arm": config.arm,
        "seed": config.seed,
        "init": config.init,
        "steps": config.total_steps,
        "best_step": meta["best_step"],
        "best_value": meta["best_value"],
        "train_seconds": seconds["step"] + seconds["input"],
        "seconds": seconds,
        "train_flops": parts.flops.model * config.total_steps,
        "train_hardware_flops": parts.flops.hardware * config.total_steps,
      },
    )
  say(f"done at step {config.total_steps}: {clock.summary()}.")


if __name__ == "__main__":
  entry.run(main)
