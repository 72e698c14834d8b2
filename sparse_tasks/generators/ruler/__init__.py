"""RULER's synthetic tasks, in the form of The Sparse Frontier."""

from sparse_tasks.generators.ruler import cwe, niah, vt

__all__ = ["cwe", "niah", "vt"]
