"""Config -> tokenizer, mesh, model, optimizer, shapes and shardings.

All entries build with this one function, so what is compiled, trained,
restored and evaluated is the same. Sections of the config are passed as
keyword arguments: a misspelt key fails here, before a device is touched.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from vpd_jax import (
  config_check,
  config_sections,
  lookup,
  optim,
  step,
  trees,
)
from vpd_jax.checkpoint import model_folder
from vpd_jax.input import mixture, pipeline, preprocess, tasks, tokens
from vpd_jax.logs import mfu
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
  # These may be left out.
  "distributed",
  "log",
  "profile",
)


INPUT_KEYS = (
  "data",
  "batch_size",
  "image_px",
  "image_kernel",
  "image_resize_px",
  "lengths",
  "vocab",
  "cache",
  "drop_long",
  "num_threads",
  "num_workers",
  "questions_per_image",
  "synthetic",
  "label_suffix",
  "rationale_suffix",
  "has_bos",
  "prompt_end",
)

# Of these, what evaluation must do as training did.
ROW_KEYS = ("image_kernel", "image_resize_px", "has_bos", "prompt_end")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a config builds.

  Attributes:
    tokenizer, lengths, image_px: of the input.
    row_options: of `tasks.to_arrays`, as the model's weights need them.
    options: keyword arguments of the family's Model.
    updates: of `lora.add`; {}: there are none.
    make_model: constructs the model with its initial weights.
    graphdef: structure of the model, for `step.merge`.
    unquantized: name -> shape and sharding of each kernel that is quantized,
      as a file of weights has it.
    loss: (model, batch, key) -> (loss, metrics).
    totals: of the loss's module, see `step.train_step`.
    optimizer: with all that `optim.make` makes.
    flops: of a train step.
    state: step.TrainState of ShapeDtypeStructs with shardings.
    batch_sharding: of every input, cut along the leading axis.
  """

  tokenizer: tokens.Tokenizer
  lengths: tasks.Lengths
  image_px: int
  row_options: dict[str, Any]
  options: dict[str, Any]
  updates: dict[str, Any]
  make_model: Callable[[], Any]
  graphdef: nnx.GraphDef
  unquantized: dict[str, jax.ShapeDtypeStruct]
  loss: step.Loss
  totals: step.Totals
  optimizer: optim.Optimizer
  flops: mfu.StepFlops
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
  options = _model_options(config, tokenizer.vocab_size)
  updates = lora.options(options.pop("lora", None) or {})
  make_model = _model_maker(config, options, updates)
  abstract = nnx.eval_shape(make_model)
  float_params = nnx.state(abstract, nnx.Param)
  shapes = nnx.to_pure_dict(float_params)
  _check_tokens(tokenizer, abstract, shapes)

  optimizer = optim.make(
    total_steps=config.total_steps, **_optim_options(config)
  )
  trained, frozen = optimizer.partition(shapes)
  graphdef, params = nnx.split(quantized.replace(abstract, frozen), nnx.Param)

  mesh = mesh_lib.make(config.sharding.mesh)
  place.check_image(config.input.image_px, _patch_px(options), mesh)
  strategy = config.sharding.strategy
  batch_sharding = place.batch_sharding(mesh, strategy)
  place.check_batch_size(config.input.batch_size, batch_sharding)
  _check_parts_of_batch(config, batch_sharding, optimizer.accumulate)
  shardings = place.param_shardings(params, mesh, strategy)
  state = place.abstract_state(
    trained,
    shardings,
    optimizer.tx,
    mesh,
    frozen,
    has_ema=optimizer.ema_decay > 0,
  )
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
  loss, totals = _loss(config)
  loss = place.constrained(loss, mesh, strategy)
  lengths = tasks.Lengths(**config.input.lengths)
  return Parts(
    tokenizer=tokenizer,
    lengths=lengths,
    image_px=config.input.image_px,
    row_options=_row_options(config, options),
    options=options,
    updates=updates,
    make_model=make_model,
    graphdef=graphdef,
    unquantized=unquantized,
    loss=loss,
    totals=totals,
    optimizer=optimizer,
    flops=_flops(config, options, lengths, shapes, trained),
    state=state,
    batch_sharding=batch_sharding,
  )


def train_batches(config: Any, parts: Parts) -> pipeline.TrainBatches:
  """The training input of a config: this process's rows of each batch.

  Raises:
    ValueError: as `pipeline.train_batches`, or if there is no data set.
    FileNotFoundError: if a data set is not there.
  """
  section = config_sections.given(config.input) | parts.row_options
  data = [dict(entry) for entry in section.pop("data", {}).values()]
  if not data and not section.get("synthetic"):
    raise ValueError(
      "config.input.data names no data set; or set input.synthetic=True to"
      " train on random numbers."
    )
  for key in ("vocab", "lengths"):
    section.pop(key)
  return pipeline.train_batches(
    data,
    parts.tokenizer,
    parts.lengths,
    seed=config.seed,
    rows=mixture.rows_of(parts.batch_sharding, config.input.batch_size),
    **section,
  )


def compile_step(
  config: Any, parts: Parts, state: step.TrainState, batch: step.Batch
) -> jax.stages.Compiled:
  """The train step of a config: (state, batch) -> (state, metrics).

  Args:
    config, parts: as built.
    state, batch: arrays, or ShapeDtypeStructs with shardings.
  """
  return step.compile_train_step(
    state,
    batch,
    graphdef=parts.graphdef,
    tx=parts.optimizer.tx,
    loss=parts.loss,
    totals=parts.totals,
    seed=config.seed,
    accumulate=parts.optimizer.accumulate,
    ema_decay=parts.optimizer.ema_decay,
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
  if config.select and config.select not in known:
    raise ValueError(
      f"config.select={config.select!r} is not a metric of an evaluator with"
      f" every_steps; there are {known}. Or '': the last step is the best."
    )
  return out


def _model_options(config, vocab_size: int) -> dict[str, Any]:
  """Keyword arguments of the family's Model, and "lora" if there is one."""
  options = config_sections.given(config.model)
  name, size = options.pop("name"), options.pop("size")
  sizes = lookup.module("vpd_jax.models", name, "sizes")
  if model_folder.is_one(size):
    own = _saved_options(size, name)
  else:
    own = sizes.get(size) | {"vocab_size": vocab_size}
    own |= {"image_size": config.input.image_px}
  options = own | options | {"seed": config.seed}
  image_px = config.input.image_px
  if options.get("has_naflex_vit", False):
    patch_px = _patch_px(options)
    if image_px < 1 or image_px % patch_px:
      raise ValueError(
        f"config.input.image_px={image_px} is no multiple of the NaFlex tower's"
        f" patches of {patch_px} pixels: a picture has at most as many of them"
        " as a square of that side."
      )
  elif options["image_size"] != image_px:
    raise ValueError(
      f"config.input.image_px={image_px}, but the model takes"
      f" {options['image_size']}. Weights for another size are made with"
      " python -m vpd_jax.convert --image_px."
    )
  return options


def _row_options(config, model_options) -> dict[str, Any]:
  """Of `tasks.to_arrays`: the config's, and what the weights' folder says."""
  section = config_sections.given(config.input)
  options = {key: section[key] for key in ROW_KEYS if key in section}
  folders = [f for f in (config.model.size, config.init) if f]
  for folder in filter(model_folder.is_one, folders):
    for name, value in model_folder.read(folder).image.items():
      if options.setdefault(f"image_{name}", value) != value:
        raise ValueError(
          f"config.input.image_{name}={options[f'image_{name}']!r}, but"
          f" {folder} is of weights that saw pictures with {value!r}. Leave it"
          f' out; if you mean it, change "image" in {folder}'
          f"/{model_folder.NAME}."
        )
  if model_options.get("has_naflex_vit", False):
    kernel = preprocess.FAMILIES["siglip2_naflex"].kernel
    options = {"image_kernel": kernel} | options
    options["image_patch_px"] = _patch_px(model_options)
  return options


def _model_maker(config, options, updates) -> Callable[[], Any]:
  family = lookup.module("vpd_jax.models", config.model.name, "model")
  config_check.check_keywords(family.Model.__init__, options, "model", {"self"})
  make_model = functools.partial(family.Model, **options)
  if not updates:
    return make_model
  given = {"model", "seed"}
  config_check.check_keywords(lora.add, updates, "model.lora", given)
  return lambda: lora.add(make_model(), seed=config.seed, **updates)


def _patch_px(options: dict[str, Any]) -> int:
  """Side of what becomes one token of the image tower."""
  if "stem" in options:
    return math.prod(side for side, _ in options["stem"])
  return options["patch_size"]


def _saved_options(folder: str, family: str) -> dict[str, Any]:
  """Options of the model that a folder of `convert` holds."""
  saved = model_folder.read(folder)
  if saved.family != family:
    raise ValueError(
      f"config.model.size={folder} is a {saved.family}; config.model.name is"
      f" {family!r}."
    )
  if saved.cls != model_folder.MODEL:
    raise ValueError(
      f"config.model.size={folder} is a {saved.family}.{saved.cls}, which"
      f" train does not train; it trains a {model_folder.MODEL}."
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
  options = config_sections.given(config.optim)
  config_check.check_keywords(optim.make, options, "optim", {"total_steps"})
  if config.model.get("lora") and not {"train", "freeze"} & set(options):
    options["train"] = (lora.UPDATES,)
  return options


def _loss(config) -> tuple[step.Loss, step.Totals]:
  options = config_sections.given(config.loss)
  module = lookup.module("vpd_jax.losses", options.pop("name"))
  loss = module.step_by_step
  given = {"model", "batch", "key", "totals"}
  config_check.check_keywords(loss, options, "loss", given)
  return functools.partial(loss, **options), module.totals


def _flops(config, options, lengths, shapes, trained) -> mfu.StepFlops:
  """Of a train step; `shapes` are those of all parameters, in full."""
  family = lookup.module("vpd_jax.models", config.model.name, "flops")
  targets = ("label", "rationale")
  if config.loss.get("rationale_weight") == 0:
    targets = ("label",)
  questions = config_sections.given(config.input).get("questions_per_image", 1)
  examples = config.input.batch_size
  return mfu.of_step(
    {
      name: family.forward(
        options,
        image_px=config.input.image_px,
        prompt=lengths.prompt,
        target=getattr(lengths, name),
      )
      for name in targets
    },
    mfu.multiples(
      mfu.matrix_sizes(shapes),
      trees.flatten_with_names(trained),
      family.parts(options),
    ),
    images=examples // questions,
    examples=examples,
    remat=options.get("remat", "none"),
    vit_remat=options.get("vit_remat", "none"),
  )


def _check_parts_of_batch(config, batch_sharding, accumulate: int) -> None:
  """ValueError unless each part of a batch has whole images for all devices."""
  ways = place.axis_size(batch_sharding.mesh, batch_sharding.spec[0])
  questions = config_sections.given(config.input).get("questions_per_image", 1)
  batch_size, step_size = config.input.batch_size, accumulate * ways * questions
  if batch_size % step_size:
    low = batch_size // step_size * step_size
    fitting = " or ".join(str(n) for n in (low, low + step_size) if n)
    raise ValueError(
      f"input.batch_size={batch_size} does not divide by optim.accumulate"
      f" ({accumulate}) x the mesh's batch axes ({ways}) x"
      f" input.questions_per_image ({questions}); try {fitting}."
    )
