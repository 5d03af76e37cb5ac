"""Config -> tokenizer, mesh, model, optimizer, shapes and shardings.

All entries build with this one function, so what is compiled, trained,
restored and evaluated is the same. Sections of the config are passed as
keyword arguments: a misspelt key fails here, before a device is touched.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from vpd_jax import config_check, lookup, optim, step
from vpd_jax.checkpoint import store
from vpd_jax.input import mixture, pipeline, tasks, tokens
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
  "lengths",
  "vocab",
  "cache",
  "drop_long",
  "num_threads",
  "label_suffix",
  "rationale_suffix",
)


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a config builds.

  Attributes:
    tokenizer, lengths, image_px: of the input.
    make_model: constructs the model with its initial weights.
    graphdef: structure of the model, for `step.merge`.
    loss: (model, batch) -> (loss, metrics).
    tx, schedule: optimizer, and step -> learning rate.
    state: step.TrainState of ShapeDtypeStructs with shardings.
    batch_sharding: of every input, cut along the leading axis.
  """

  tokenizer: tokens.ByteTokenizer
  lengths: tasks.Lengths
  image_px: int
  make_model: Callable[[], Any]
  graphdef: nnx.GraphDef
  loss: step.Loss
  tx: optax.GradientTransformation
  schedule: optax.Schedule
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
  graphdef, params = nnx.split(abstract, nnx.Param)
  shapes = nnx.to_pure_dict(params)

  optim_section = dict(config.optim)
  given = {"params", "total_steps"}
  config_check.check_keywords(optim.make, optim_section, "optim", given)
  tx, schedule = optim.make(
    shapes, total_steps=config.total_steps, **optim_section
  )

  mesh = mesh_lib.make(config.sharding.mesh)
  batch_sharding = place.batch_sharding(mesh, config.sharding.strategy)
  place.check_batch_size(config.input.batch_size, batch_sharding)
  shardings = place.param_shardings(params, mesh, config.sharding.strategy)
  return Parts(
    tokenizer=tokenizer,
    lengths=tasks.Lengths(**config.input.lengths),
    image_px=config.input.image_px,
    make_model=make_model,
    graphdef=graphdef,
    loss=_loss(config),
    tx=tx,
    schedule=schedule,
    state=place.abstract_state(shapes, shardings, tx, mesh),
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

  Parameters come from the file `config.init` where it is set, else from the
  model's own initialisation with `config.seed`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if its names or shapes are not the model's; lists all.
  """
  shardings = jax.tree.map(lambda x: x.sharding, parts.state)

  def start(params):
    return step.init_state(params, parts.tx)

  if config.init:
    params = store.load_params(config.init, parts.state.params)
    params = jax.tree.map(jax.device_put, params, shardings.params)
    return jax.jit(start, out_shardings=shardings)(params)

  def fresh():
    params = nnx.state(parts.make_model(), nnx.Param)
    return start(nnx.to_pure_dict(params))

  return jax.jit(fresh, out_shardings=shardings)()


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
  options = sizes.get(size) | {"image_size": config.input.image_px} | options
  options |= {"vocab_size": vocab_size, "seed": config.seed}
  config_check.check_keywords(family.Model.__init__, options, "model", {"self"})
  return functools.partial(family.Model, **options)


def _loss(config) -> step.Loss:
  options = dict(config.loss)
  loss = lookup.module("vpd_jax.losses", options.pop("name")).step_by_step
  given = {"model", "batch"}
  config_check.check_keywords(loss, options, "loss", given)
  return functools.partial(loss, **options)
