"""Base of prefill methods that take the blocks of 128 that hold a share of the attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from sparse_tasks.attention.interactions import BLOCK, window_density
from sparse_tasks.attention.method import PrefillMethod, Span
from sparse_tasks.core.records import JsonObject

QUERIES: Final = 8192
"""Most queries of one call: their lists stay below 2% of the keys and values (32 query, 8 KV heads)."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlocks(PrefillMethod):
    """Blocks under a threshold. The first key block and the diagonal are always read, and count."""

    budget: ClassVar[str] = "threshold, adaptive across heads"
    cache: ClassVar[str] = "kept"
    exact: ClassVar[bool] = False

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_prefill", {"shared": True}

    @property
    def queries_at_once(self) -> int:
        return QUERIES

    def density_span(self, length: int) -> Span:
        if self.sparsity is None:
            return window_density(length, BLOCK + 1), 1.0  # the first block and the diagonal
        density = 1 - self.sparsity
        # Off by up to half a block per call, and the diagonal is always read.
        return density - BLOCK / length, density + 2.1 * BLOCK / length
