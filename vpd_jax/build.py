"""Config -> tokenizer, mesh, model, optimizer, shapes and shardings.

All entries build with this one function, so what is compiled, trained,
restored and evaluated is the same. Sections of the config are passed as
keyword arguments: a misspelt key fails here, before a device is touched.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from vpd_jax import config_check, lookup, optim, step, trees
from vpd_jax.checkpoint import model_folder, store
from vpd_jax.input import mixture, pipeline, tasks, tokens
from vpd_jax.models import lora, quantized
from vpd_jax.sharding import mesh as mesh_lib
from vpd_jax.sharding import place

SECTIONS = (
  "seed",
  "total_steps",
  "log_every_steps",
  "arm",
  "data_dir",
  "init",
  "input",
  "model",
  "loss",
  "optim",
  "sharding",
  "evaluators",
  "select",
  "checkpoint",
)


INPUT_KEYS = (
  "data",
  "batch_size",
  "image_px",
  "image_kernel",
  "lengths",
  "vocab",
  "cache",
  "drop_long",
  "num_threads",
  "label_suffix",
  "rationale_suffix",
  "has_bos",
  "prompt_end",
)

# Of these, what evaluation must do as training did.
ROW_KEYS = ("image_kernel", "has_bos", "prompt_end")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a config builds.

  Attributes:
    tokenizer, lengths, image_px: of the input.
    row_options: of `tasks.to_arrays`, as the model's weights need them.
    make_model: constructs the model with its initial weights.
    graphdef: structure of the model, for `step.merge`.
    unquantized: name -> shape and sharding of each kernel that is quantized,
      as a file of weights has it.
    loss: (model, batch, key) -> (loss, metrics).
    tx, schedule: optimizer, and step -> learning rate.
    partition: parameters -> (those that train, the others).
    state: step.TrainState of ShapeDtypeStructs with shardings.
    batch_sharding: of every input, cut along the leading axis.
  """

  tokenizer: tokens.Tokenizer
  lengths: tasks.Lengths
  image_px: int
  row_options: dict[str, Any]
  make_model: Callable[[], Any]
  graphdef: nnx.GraphDef
  unquantized: dict[str, jax.ShapeDtypeStruct]
  loss: step.Loss
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  partition: Callable[[Any], tuple[Any, Any]]
  state: step.TrainState
  batch_sharding: jax.sharding.NamedSharding


def build(config: Any) -> Parts:
  """Builds all but the arrays.

  Args:
    config: an ml_collections.ConfigDict, see configs/world_vpd.py.

  Raises:
    ValueError, KeyError: for an option that does not exist (names the
      nearest) or does not fit; nothing was allocated.
    FileNotFoundError: if the vocabulary is not there.
  """
  config_check.check_names(config.keys(), SECTIONS)
  config_check.check_names(config.input, INPUT_KEYS, "config.input.")
  tokenizer = tokens.load(config.input.vocab)
  make_model = _model_maker(config, tokenizer.vocab_size)
  abstract = nnx.eval_shape(make_model)
  float_params = nnx.state(abstract, nnx.Param)
  shapes = nnx.to_pure_dict(float_params)
  _check_tokens(tokenizer, abstract, shapes)

  tx, schedule, partition = optim.make(
    total_steps=config.total_steps, **_optim_options(config)
  )
  trained, frozen = partition(shapes)
  graphdef, params = nnx.split(quantized.replace(abstract, frozen), nnx.Param)

  mesh = mesh_lib.make(config.sharding.mesh)
  strategy = config.sharding.strategy
  batch_sharding = place.batch_sharding(mesh, strategy)
  place.check_batch_size(config.input.batch_size, batch_sharding)
  shardings = place.param_shardings(params, mesh, strategy)
  state = place.abstract_state(trained, shardings, tx, mesh, frozen)
  of_files = jax.tree.map(
    lambda x, s: x.update(sharding=s),
    shapes,
    place.param_shardings(float_params, mesh, strategy),
  )
  names = trees.flatten_with_names(state.all_params)
  unquantized = {
    name: x
    for name, x in trees.flatten_with_names(of_files).items()
    if name not in names
  }
  return Parts(
    tokenizer=tokenizer,
    lengths=tasks.Lengths(**config.input.lengths),
    image_px=config.input.image_px,
    row_options={k: config.input[k] for k in ROW_KEYS if k in config.input},
    make_model=make_model,
    graphdef=graphdef,
    unquantized=unquantized,
    loss=_loss(config),
    tx=tx,
    schedule=schedule,
    partition=partition,
    state=state,
    batch_sharding=batch_sharding,
  )


def train_batches(config: Any, parts: Parts) -> pipeline.TrainBatches:
  """The training input of a config: this process's rows of each batch."""
  section = dict(config.input)
  data = [dict(entry) for entry in section.pop("data").values()]
  for key in ("vocab", "lengths"):
    section.pop(key)
  return pipeline.train_batches(
    data,
    parts.tokenizer,
    parts.lengths,
    seed=config.seed,
    rows=mixture.process_rows(
      config.input.batch_size, jax.process_index(), jax.process_count()
    ),
    **section,
  )


def init_state(config: Any, parts: Parts) -> step.TrainState:
  """The state before the first step, on the mesh.

  Parameters come from `config.init` where it is set, a file of `export` or a
  folder of `convert`, else from the model's own initialisation with
  `config.seed`. Low-rank updates are in no
  such file: they start from their own initialisation.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if its names or shapes are not the model's; lists all.
  """
  shardings = jax.tree.map(lambda x: x.sharding, parts.state)

  def fresh():
    params = nnx.state(parts.make_model(), nnx.Param)
    return nnx.to_pure_dict(params)

  if not config.init:

    def start():
      trained, frozen = parts.partition(fresh())
      return step.init_state(trained, parts.tx, frozen)

    return jax.jit(start, out_shardings=shardings)()

  named = trees.flatten_with_names(parts.state.all_params)
  updates = {n: x.sharding for n, x in named.items() if lora.is_update(n)}
  expected = parts.unquantized | {
    name: x
    for name, x in named.items()
    if name not in updates and name.rpartition("/")[0] not in parts.unquantized
  }

  def quantize(name, array):
    """Each kernel alone is float32 on the mesh, until it is quantized."""
    if name not in parts.unquantized:
      return array
    ends = {end: named[f"{name}/{end}"].sharding for end in quantized.ARRAYS}
    made = functools.partial(
      quantized.quantize, dtype=config.optim.frozen_dtype
    )
    return jax.jit(made, out_shardings=ends)(array)

  arrays = trees.flatten_with_names(_load(config.init, expected, quantize))

  def fresh_updates():
    made = trees.flatten_with_names(fresh())
    return {name: made[name] for name in updates}

  arrays |= jax.jit(fresh_updates, out_shardings=updates)()
  params = trees.unflatten_like(parts.state.params, arrays)
  return step.TrainState(
    step=jax.device_put(np.zeros((), np.int32), shardings.step),
    params=params,
    # Compiled without the parameters, which would be copied otherwise.
    opt_state=jax.jit(parts.tx.init, out_shardings=shardings.opt_state)(params),
    frozen=trees.unflatten_like(parts.state.frozen, arrays),
  )


def _load(
  init: str,
  expected: dict[str, jax.ShapeDtypeStruct],
  then: Callable[[str, jax.Array], Any],
) -> dict[str, Any]:
  """Named arrays of a folder of ours, or of a single file, on the mesh."""
  if model_folder.is_one(init):
    return model_folder.load(init, expected, then=then)
  if pathlib.Path(init).is_dir():
    raise FileNotFoundError(
      f"config.init={init} has no {model_folder.NAME}. Make a folder of ours of"
      f" it: python -m vpd_jax.convert --from=hf:{init} --to=DIR"
    )
  loaded = store.load_params(init, expected)
  return {
    name: then(name, jax.device_put(loaded[name], x.sharding))
    for name, x in expected.items()
  }


def restore_best(
  parts: Parts, folder: str | os.PathLike, best_step: int
) -> step.Params:
  """All parameters of a run's best step, trained and frozen.

  Args:
    parts: what the run's config built.
    folder: the run's workdir.
    best_step: from its training.json.

  Raises:
    FileNotFoundError, ValueError: as `store.Store.restore`.
  """
  folder, state = pathlib.Path(folder), parts.state
  return step.join(
    store.restore_params(folder / "best", best_step, state.params),
    store.restore_frozen(folder / "frozen", state.frozen),
  )


def evaluators(config: Any, parts: Parts) -> dict[str, Any]:
  """The config's evaluators by name; each has `run` and `predict`.

  Raises:
    ValueError: for an option that does not exist, or a `config.select` that
      no evaluator would ever give.
    FileNotFoundError: if a data set or split is not there.
  """
  out, regular = {}, []
  for name, section in config.evaluators.items():
    options = dict(section)
    if options.pop("every_steps", 0):
      regular.append(name)
    module = lookup.module("vpd_jax.evaluators", options.pop("name"))
    given = {"self", "parts"}
    config_check.check_keywords(
      module.Evaluator.__init__, options, f"evaluators.{name}", given
    )
    out[name] = module.Evaluator(parts=parts, **options)
  known = [f"{name}/{key}" for name in regular for key in out[name].metrics]
  if config.select not in known:
    raise ValueError(
      f"config.select={config.select!r} is not a metric of an evaluator with"
      f" every_steps; there are {known}."
    )
  return out


def _model_maker(config, vocab_size: int) -> Callable[[], Any]:
  options = dict(config.model)
  name, size = options.pop("name"), options.pop("size")
  family = lookup.module("vpd_jax.models", name, "model")
  sizes = lookup.module("vpd_jax.models", name, "sizes")
  if model_folder.is_one(size):
    own = _saved_options(size, name)
  else:
    own = sizes.get(size) | {"vocab_size": vocab_size}
    own |= {"image_size": config.input.image_px}
  options = own | options | {"seed": config.seed}
  if options["image_size"] != config.input.image_px:
    raise ValueError(
      f"config.input.image_px={config.input.image_px}, but the model takes"
      f" {options['image_size']}. Weights for another size are made with"
      " python -m vpd_jax.convert --image_px."
    )
  updates = options.pop("lora", None)
  config_check.check_keywords(family.Model.__init__, options, "model", {"self"})
  make_model = functools.partial(family.Model, **options)
  if not updates:
    return make_model
  updates = lora.options(updates)
  given = {"model", "seed"}
  config_check.check_keywords(lora.add, updates, "model.lora", given)
  return lambda: lora.add(make_model(), seed=config.seed, **updates)


def _saved_options(folder: str, family: str) -> dict[str, Any]:
  """Options of the model that a folder of `convert` holds."""
  saved = model_folder.read(folder)
  if saved.family != family:
    raise ValueError(
      f"config.model.size={folder} is a {saved.family}; config.model.name is"
      f" {family!r}."
    )
  return dict(saved.options)


def _check_tokens(tokenizer: tokens.Tokenizer, model: Any, shapes: Any) -> None:
  """ValueError unless the tokenizer is one that the model can be used with."""
  tokens.check_fits(tokenizer, shapes["embedding"]["table"].shape[0])
  for name in ("pad_id", "eos_id"):
    found, expected = getattr(tokenizer, name), getattr(model, name)
    if found != expected:
      raise ValueError(
        f"config.input.vocab: {tokenizer!r} has {name}={found}, but the model"
        f" computes with {expected}. Load the tokenizer of its weights."
      )


def _optim_options(config) -> dict[str, Any]:
  """Of `optim.make`; where updates are added they alone train, if not said."""
  options = dict(config.optim)
  config_check.check_keywords(optim.make, options, "optim", {"total_steps"})
  if config.model.get("lora") and not {"train", "freeze"} & set(options):
    options["train"] = (lora.UPDATES,)
  return options


def _loss(config) -> step.Loss:
  options = dict(config.loss)
  loss = lookup.module("vpd_jax.losses", options.pop("name")).step_by_step
  given = {"model", "batch", "key"}
  config_check.check_keywords(loss, options, "loss", given)
  return functools.partial(loss, **options)
