"""Weights of the model called ``probe`` in sparse-tasks: ``probe.safetensors``, and no code."""
