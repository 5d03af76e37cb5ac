"""Which name is proposed for one that does not exist."""

import pytest

from vpd_jax import config_check, lookup, spelling


@pytest.mark.parametrize(
  "name, known, prefix, expected",
  [
    ("sead", ["name", "seed"], "", " Did you mean 'seed'?"),
    ("sead", ["seed"], "config.", " Did you mean 'config.seed'?"),
    ("pally", ["blip2", "pali"], "", " Did you mean 'pali'?"),
    ("colour", ["seed", "name"], "", ""),
    ("seed", [], "", ""),
  ],
)
def test_hint(name, known, prefix, expected):
  assert spelling.hint(name, known, prefix) == expected


def test_an_unknown_key_is_named_whole():
  message = (
    r"^config\.input\.batch_sise is no option\. Did you mean"
    r" 'config\.input\.batch_size'\? There are: \['batch_size', 'vocab'\]\.$"
  )
  known = ["vocab", "batch_size"]
  config_check.check_names(known, known, "config.input.")
  with pytest.raises(ValueError, match=message):
    config_check.check_names(["batch_sise"], known, "config.input.")


def test_an_unknown_module_is_named_with_those_that_exist():
  message = r"no module 'lime'\. Did you mean 'line'\? It has: .*'progress'"
  with pytest.raises(KeyError, match=message):
    lookup.module("vpd_jax.logs", "lime")
