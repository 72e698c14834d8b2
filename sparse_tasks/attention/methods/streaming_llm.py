"""StreamingLLM: the first tokens and the last ones (Xiao et al. 2023, section 3.2), as a pattern of the prompt."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.attention.methods.vertical_slash import BLOCK_Q, UNIT
from sparse_tasks.attention.patterns import causal_count
from sparse_tasks.core.parameters import parameter

__all__ = ["StreamingLLM", "nearest_size", "seen_by"]

_WINDOW: Final = 1024  # where no window and no sparsity is given


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(PrefillMethod):
    """Each query sees the first tokens, and the last ones up to itself, whatever they hold: an "A-shape".

    The window is rounded up to tiles, so that more is computed than it asks for. Here the cache is kept, and what
    follows the prompt sees all of it.
    """

    sinks: int = parameter(4, "first tokens that are always seen", 0)
    window: int | None = parameter(
        None, "last tokens that a query sees, its own included; 1024 if neither this nor sparsity is given", 1, kind=int
    )

    name: ClassVar[str] = "streaming_llm"
    summary: ClassVar[str] = "first tokens and a window of the last ones"
    unit: ClassVar[str] = "sinks and a window"
    importance: ClassVar[str] = "fixed"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Xiao et al., 2023, arXiv:2309.17453"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("window",)

    @property
    def unshared(self) -> str | None:
        return super().unshared if self.sparsity is not None else None  # else a window, whatever the prompt

    def solve(self, length: int, density: float) -> dict[str, int]:
        size = nearest_size(length, density * causal_count(length, length))
        return {"window": max(1, size - self.sinks)}

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        check_sequence(q, k)
        n_k, device = len(k), k.device
        window = self.at(n_k if length is None else length).window or _WINDOW
        if self.sinks + window >= n_k:
            return None
        # Filled on the device: a tensor of numbers of the host would be waited for.
        return LineIndex.from_lines(
            torch.arange(max(1, self.sinks), dtype=torch.int32, device=device)[None],
            torch.full((1,), self.sinks, dtype=torch.int32, device=device),
            torch.arange(window, dtype=torch.int32, device=device)[None],
            torch.full((1,), window, dtype=torch.int32, device=device),
            block_q=BLOCK_Q,
            unit=UNIT,
            n_q=len(q),
            n_k=n_k,
            impl=impl,
        )


def seen_by(queries: int, size: int) -> int:
    """Interactions of the first ``queries`` positions if each sees ``size`` keys, or as many as there are."""
    full = min(size, queries)
    return full * (full + 1) // 2 + (queries - full) * full


def nearest_size(queries: int, wanted: float) -> int:
    """The size from 1 on whose count is nearest to what is wanted; of two as near, the smaller."""
    size = bisect.bisect_left(range(1, queries), wanted, key=lambda size: seen_by(queries, size)) + 1
    under = max(1, size - 1)
    return under if abs(seen_by(queries, under) - wanted) <= abs(seen_by(queries, size) - wanted) else size


METHODS.register("streaming_llm", StreamingLLM)
