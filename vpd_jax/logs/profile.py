"""A window of steps that jax's profiler traces, into WORKDIR/profile.

Look at it with xprof (pip install xprof; xprof --logdir=WORKDIR/profile), or
with the plugin of TensorBoard.
"""

import pathlib

import jax


class Window:
  """Traces the steps start_step, ..., start_step + num_steps - 1."""

  def __init__(
    self,
    folder: pathlib.Path,
    start_step: int = 0,
    num_steps: int = 3,
    has_python: bool = False,
  ):
    """Starts nothing yet.

    Args:
      folder: for the traces; made when one is written.
      start_step: the first step that is traced; 1 is a run's first, which
        pays for much that later ones do not. 0: none is traced.
      num_steps: how many are.
      has_python: whether calls of Python are in the trace too. They make the
        steps slower, and writing the trace takes seconds more.

    Raises:
      ValueError: if there are no such steps.
    """
    if start_step < 0 or num_steps < 1:
      raise ValueError(
        f"profile.start_step={start_step}, num_steps={num_steps}: expected a"
        " step, and at least one."
      )
    self._folder = folder
    self._steps = range(start_step, start_step + num_steps * bool(start_step))
    self._options = jax.profiler.ProfileOptions()
    self._options.python_tracer_level = int(has_python)
    self._is_on = False

  def is_edge(self, next_step: int) -> bool:
    """Whether to wait for all steps before this one: tracing changes here."""
    return self._is_on != (next_step in self._steps)

  def before(self, next_step: int) -> None:
    """Starts or ends the trace, as is due before a step."""
    if not self.is_edge(next_step):
      return
    if self._is_on:
      self.close()
    else:
      jax.profiler.start_trace(self._folder, profiler_options=self._options)
      self._is_on = True

  def close(self) -> None:
    """Ends a trace that is under way."""
    if self._is_on:
      self._is_on = False
      jax.profiler.stop_trace()
