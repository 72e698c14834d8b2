"""Long-context tasks of exact length, to measure what sparse attention costs a language model.

>>> import sparse_tasks
>>> data = sparse_tasks.generate(length="4k", tasks=["story"], samples=10)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["__version__", "compare", "evaluate", "generate", "list_methods", "list_tasks", "load_run"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparse_tasks.evaluators.api import compare, evaluate, load_run
    from sparse_tasks.generators.api import generate

# Imported on first use, since importing the package has to stay cheap.
_LAZY = {
    "compare": "sparse_tasks.evaluators.api",
    "evaluate": "sparse_tasks.evaluators.api",
    "generate": "sparse_tasks.generators.api",
    "load_run": "sparse_tasks.evaluators.api",
}


def list_tasks() -> list[str]:
    """Names of all tasks, including those of installed plugins."""
    from sparse_tasks.generators.task import TASKS

    return TASKS.names()


def list_methods() -> list[str]:
    """Names of all sparse attention methods, including those of installed plugins."""
    from sparse_tasks.attention.method import METHODS

    return METHODS.names()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
