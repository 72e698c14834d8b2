"""Names of the methods of this package, whatever other packages add to the registry."""

from __future__ import annotations

from sparse_tasks.attention.method import METHODS

__all__ = ["OURS"]

OURS = [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("sparse_tasks.")]
