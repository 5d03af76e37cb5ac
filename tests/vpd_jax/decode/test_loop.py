"""Greedy decoding against the definition: argmax of the full forward."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vpd_jax import step
from vpd_jax.decode import loop

EOS = 1

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def case():
  model = step.merge(*tiny.pali(seed=3))
  batch = tiny.on_device(tiny.batch(6))
  return model, batch["image"], batch["label_prompt"]


def _by_definition(model, image, prompt, length, eos_id):
  out = np.zeros((len(prompt), length), np.int32)
  for position in range(length):
    logits = model(image, prompt, jnp.asarray(out))
    token = np.asarray(jnp.argmax(logits[:, position], -1))
    has_ended = (out == eos_id).any(1)
    out[:, position] = np.where(has_ended, 0, token)
  return out


def test_greedy_is_argmax_of_the_full_forward(case):
  found = loop.greedy(*case, max_new_tokens=6, eos_id=EOS)
  np.testing.assert_array_equal(found, _by_definition(*case, 6, EOS))


def test_a_row_that_ends_is_padded(case):
  # The second token of row 0 as the end: some rows end, others do not.
  first = _by_definition(*case, 6, EOS)
  eos_id = int(first[0, 1])
  found = np.asarray(loop.greedy(*case, max_new_tokens=6, eos_id=eos_id))
  np.testing.assert_array_equal(found, _by_definition(*case, 6, eos_id))
  assert (found[0, 2:] == 0).all() and found[0, 1] == eos_id
