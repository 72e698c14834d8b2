"""Sparse attention inside vLLM, as a plugin that does nothing until ``engine_arguments`` turn it on."""

from sparse_tasks.attention.vllm.arguments import engine_arguments, serve_arguments

__all__ = ["engine_arguments", "serve_arguments"]
