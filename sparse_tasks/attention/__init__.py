"""Training-free sparse attention: methods, the indices they select, and the kernels that run them.

Every method's class can be imported from here. Only computing needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_tasks.attention.attention import Attention as Attention
    from sparse_tasks.attention.huggingface import sparse_attention as sparse_attention
    from sparse_tasks.attention.prefill import sparse_prefill as sparse_prefill

_LAZY = {"Attention": "attention", "sparse_attention": "huggingface", "sparse_prefill": "prefill"}


def _methods() -> dict[str, type]:
    """All method classes by class name."""
    from sparse_tasks.attention.method import METHODS

    return {method.__name__: method for method in METHODS}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name == "__all__":
        return [*_LAZY, *_methods()]
    if name[:1].isupper() and name in (methods := _methods()):
        return methods[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_methods()})
