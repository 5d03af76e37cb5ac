"""Visual Program Distillation: offline data generation. Imports nothing."""
