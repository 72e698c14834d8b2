"""sparse-tasks: long-context tasks of exact length, to see what sparse attention costs.

>>> import sparse_tasks
>>> data = sparse_tasks.generate(length="4k", tasks=["story"], samples=10)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["__version__", "generate"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparse_tasks.generators.api import generate


def __getattr__(name: str) -> Any:
    # Importing the package has to stay cheap, so the generators come on first use.
    if name == "generate":
        from sparse_tasks.generators.api import generate

        return generate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
