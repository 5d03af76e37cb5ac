"""Sections that every experiment has, so that flags can set them.

    --config.distributed.process_id=1 --config.profile.start_step=10

A flag can only set what a config names, with the type that it has there.
"""

from typing import Any

from ml_collections import config_dict

from vpd_jax.sharding import rules


def of_run() -> dict[str, Any]:
  """Where an experiment runs and what it reports: nothing that it learns from.

  Returns:
    distributed: as in `distributed.connect`; not set: what the launcher says.
    log: wandb, a project of Weights & Biases; "": none.
    profile: start_step, num_steps, as in `logs.profile.Window`; 0: none.
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
    "profile": {"start_step": 0, "num_steps": 3},
  }


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
