"""Sections that every experiment has, so that flags can set them.

    --config.distributed.process_id=1 --config.profile.start_step=10

A flag can only set what a config names, with the type that it has there. What
an experiment leaves open is None here, and then as the function says that the
section is passed to: a default lives there alone.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from vpd_jax.sharding import rules


def of_run() -> dict[str, Any]:
  """Where an experiment runs and what it reports: nothing that it learns from.

  Returns:
    distributed: as in `distributed.connect`; not set: what the launcher says.
    log: wandb, a project of Weights & Biases; "": none.
    profile: start_step, num_steps, has_python, as in `logs.profile.Window`; 0:
      none.
  """
  return {
    "distributed": {
      "coordinator": config_dict.placeholder(str),
      "num_processes": config_dict.placeholder(int),
      "process_id": config_dict.placeholder(int),
      "timeout_s": config_dict.placeholder(float),
      "heartbeat_s": config_dict.placeholder(float),
    },
    "log": {"wandb": ""},
    "profile": {"start_step": 0, "num_steps": 3, "has_python": False},
  }


def inputs(**options: Any) -> dict[str, Any]:
  """What is read; see `input.pipeline.train_batches`.

  Args:
    **options: what the experiment sets.
  """
  return _open(
    options,
    cache=bool,
    drop_long=bool,
    image_kernel=str,
    num_threads=int,
    num_workers=int,
    questions_per_image=int,
    synthetic=bool,
  )


def model(**options: Any) -> dict[str, Any]:
  """The model, see models/; `lora` is a section of `lora.add` or a preset.

  Args:
    **options: as in `inputs`.
  """
  return _open(options, dropout=float, lora=object, remat=str, vit_remat=str)


def loss(**options: Any) -> dict[str, Any]:
  """The loss, see losses/.

  Args:
    **options: as in `inputs`.
  """
  return _open(
    options,
    chunk=int,
    dtype=str,
    prompts_apart=bool,
    rationale_weight=float,
    z_loss=float,
  )


def optimizer(**options: Any) -> dict[str, Any]:
  """How and what is trained, see `optim.make`.

  Args:
    **options: as in `inputs`.
  """
  return _open(
    options,
    name=str,
    schedule=str,
    warmup_steps=int,
    final_lr_share=float,
    rsqrt_steps=int,
    b1=float,
    b2=float,
    eps=float,
    moments_dtype=str,
    momentum=float,
    momentum_dtype=str,
    decay_rate=float,
    clip_update_rms=float,
    scale_by_params=bool,
    min_factored=int,
    weight_decay=float,
    clip_norm=float,
    accumulate=int,
    ema_decay=float,
    train=tuple,
    freeze=tuple,
    frozen_dtype=str,
  )


def given(section: Mapping[str, Any]) -> dict[str, Any]:
  """What is set in a section: without what is None."""
  return {name: x for name, x in section.items() if x is not None}


def _open(options: Mapping[str, Any], **types: type) -> dict[str, Any]:
  """The options, and a place for each of the others."""
  empty = {name: config_dict.placeholder(kind) for name, kind in types.items()}
  return empty | given(options)


def sharding(strategy: str, **sizes: int) -> dict[str, Any]:
  """How arrays lie on devices; mesh axes that are not given have size 1.

  Args:
    strategy: a table of `sharding.rules`.
    **sizes: of axes of the mesh; one may be -1, for all devices left.
  """
  return {
    "strategy": strategy,
    "mesh": dict.fromkeys(rules.MESH_AXES, 1) | sizes,
  }
