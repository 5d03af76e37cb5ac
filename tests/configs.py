"""The configs of the repository, loaded as the entries load them."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def load(path: str, arg: str | None = None):
  """The ConfigDict of `configs/{path}` with its argument."""
  file = ROOT / "configs" / path
  spec = importlib.util.spec_from_file_location(file.stem, file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg) if arg is not None else module.get_config()


def tiny_world() -> dict:
  """Config of the smallest data set, for `data_gen.run.generate`."""
  config = load("data_gen/world.py", "size=tiny").to_dict()
  config["num_workers"] = 1
  return config
