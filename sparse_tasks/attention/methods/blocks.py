"""Base of prefill methods that take a number of key blocks for each block of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from sparse_tasks.attention.interactions import causal_count, ceil_div, nearest, window_density
from sparse_tasks.attention.method import PrefillMethod, Span
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject

_TOP_K: Final = 100  # of Jiang et al.


def check_block(method: str, block: int) -> None:
    """Refuse a ``block`` size that kernels do not support.

    Raises:
        UsageError: It is not supported.
    """
    if block not in (16, 32, 64, 128):
        raise UsageError(f"{method}.block", block, "is not a size that kernels take: 16, 32, 64 or 128")


@dataclass(frozen=True, kw_only=True)
class BlockMethod(PrefillMethod):
    """Each query block reads ``top_k`` key blocks, including the one on the diagonal, or all if there are fewer."""

    top_k: int | None = parameter(
        None, "key blocks of a query block; 100 if neither this nor sparsity is given", 2, kind=int
    )
    block: int = parameter(128, "positions in a block: 16, 32, 64 or 128", 16, 128)

    unit: ClassVar[str] = "blocks"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("top_k",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.name, self.block)

    @property
    def queries_at_once(self) -> int:
        # At density 0.1 this keeps the index below 2% of the keys and values (32 query, 8 KV heads) at any length.
        return 8 * self.block**2

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_prefill", {"block": self.block}

    def blocks_read(self, length: int) -> int:
        """Key blocks of a query block, with a budget solved for ``length``."""
        return self.at(length).top_k or _TOP_K

    def density_span(self, length: int) -> Span:
        block = self.block
        gathered = 64 / block if block < 64 else 1  # tiles of 64 queries compute what any of their blocks reads
        if self.sparsity is None:
            top_k = self.top_k or _TOP_K
            return window_density(length, (top_k - 1) * block + 1), gathered * window_density(length, top_k * block)
        # The first block and the diagonal are always read; the nearest whole number of blocks is half a block off.
        density, half = 1 - self.sparsity, block / length
        least = max(density - half, window_density(length, block + 1))
        return least, gathered * max(density + half, window_density(length, 2 * block))

    def solve(self, length: int, density: float) -> dict[str, int]:
        """The number of blocks whose exact count is nearest to the density."""
        target, most = density * causal_count(length, length), max(2, ceil_div(length, self.block))
        return {"top_k": nearest(lambda top_k: self._count(length, top_k), target, 2, most)}

    def _count(self, length: int, top_k: int) -> int:
        """Interactions of ``length`` queries: triangles on the diagonal, and whole blocks before them."""
        block, rows = self.block, ceil_div(length, self.block)
        last = length - (rows - 1) * block
        triangles = (rows - 1) * (block * (block + 1) // 2) + last * (last + 1) // 2
        # Row r has r blocks before the diagonal, and takes at most top_k - 1 of them.
        ramp = min(top_k - 1, rows - 1)
        before = ramp * (ramp - 1) // 2 + (rows - ramp) * ramp
        of_last = min(top_k - 1, rows - 1)
        return triangles + (before - of_last) * block**2 + of_last * block * last
