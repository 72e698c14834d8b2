"""Base of the oracles: controls that select by the true attention, at the cost of dense attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import Method
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter


@dataclass(frozen=True, kw_only=True)
class TrueAttention(Method):
    """Top-k by the true attention, or with ``p`` top-p."""

    p: float | None = parameter(
        None, "share of the true attention to keep, as few units as hold it, instead of a budget", 0.0, 1.0, kind=float
    )
    shared: bool = parameter(False, "whether heads (and query blocks) share what sparsity leaves, wherever it counts")

    control: ClassVar[bool] = True
    importance: ClassVar[str] = "true attention"
    source: ClassVar[str] = "Gupta et al., 2021, arXiv:2106.06899"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sparsity", *self.budgets):
            if self.p is not None and getattr(self, name) is not None:
                raise UsageError(f"{self.name}.p", self.p, f"replaces {name}; give only one of them")
        if self.shared and self.sparsity is None:
            raise UsageError(f"{self.name}.shared", self.shared, "shares what sparsity leaves; give a sparsity")
