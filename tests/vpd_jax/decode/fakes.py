"""A model whose next token depends on the last one alone: worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np


class Chain:
  """A table of probabilities; the prompt's first id is the first input.

  Attributes:
    steps: positions that were decoded, of all calls.

  Args:
    probs_VV: row by row, of each token after each.
  """

  start_id, is_scanned = 0, True

  def __init__(self, probs_VV):
    with np.errstate(divide="ignore"):
      self.table_VV = jnp.asarray(np.log(np.asarray(probs_VV, np.float32)))
    self.steps = []

  def encode(self, image, prompt_BS):
    assert image is None
    first_B = prompt_BS[:, 0].astype(jnp.float32)
    return first_B[:, None, None], prompt_BS != 0

  def context(self, encoded_BSD, mask_BS):
    return encoded_BSD[:, 0, 0].astype(jnp.int32)

  def init_cache(self, rows, length, dtype):
    return jnp.zeros((1, rows, length), dtype)

  def decode_next(self, token_R, position, context, cache):
    jax.debug.callback(lambda p: self.steps.append(int(p)), position)
    first_R = jnp.repeat(context, token_R.shape[0] // context.shape[0])
    return self.table_VV[jnp.where(position == 0, first_R, token_R)], cache

  def decode(self, encoded_BSD, mask_BS, target_RT):
    first_B = self.context(encoded_BSD, mask_BS)
    first_R = jnp.repeat(first_B, target_RT.shape[0] // first_B.shape[0])
    inputs_RT = jnp.concatenate([first_R[:, None], target_RT[:, :-1]], axis=1)
    return self.table_VV[inputs_RT]

  def logits(self, hidden_RTD):
    return hidden_RTD
