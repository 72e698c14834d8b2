"""Names of methods for parametrized tests."""

from __future__ import annotations

from sparse_tasks.attention.method import METHODS, RepeatMethod

__all__ = ["OURS", "SERVED"]

OURS = [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("sparse_tasks.")]
"""Those of this package, whatever other packages add to the registry."""

SERVED = [name for name in METHODS.names() if not issubclass(METHODS.get(name), RepeatMethod)]
"""Those that run in vLLM, which refuses the others."""
