"""Visual Program Distillation in JAX: training. Imports nothing."""

__version__ = "0.1.0"
