"""Sparse attention inside vLLM: a plugin of its general group, which vLLM finds once this package is installed.

Installed but not asked for, it changes nothing. ``engine_arguments`` says how to ask for it.
"""

from sparse_tasks.attention.vllm.arguments import engine_arguments, serve_arguments

__all__ = ["engine_arguments", "serve_arguments"]
