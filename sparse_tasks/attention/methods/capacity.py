"""Base of evicting methods that keep a number of tokens, those with the highest scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import ranking_flops, window_flops
from sparse_tasks.attention.method import ONLY, EvictMethod, Layer, Span
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept

_CAPACITY: Final = 1024  # if neither a capacity nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class CapacityMethod(EvictMethod):
    """Each KV head keeps ``capacity`` tokens of a prompt, or all if there are fewer."""

    capacity: int | None = parameter(
        None, "tokens that a KV head keeps; 1024 if neither this nor sparsity is given", 1, kind=int
    )

    unit: ClassVar[str] = "tokens"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "evicted after the prompt"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("capacity",)

    def index_flops(self, shape: Shape, length: float) -> float:
        """Attention of the queries in ``keep``, and a ranking of the tokens."""
        queries = length if self.observes is None else min(length, self.observes)
        return window_flops(shape, queries, length) + shape.kv_heads * ranking_flops(length)

    def solve(self, length: int, density: float) -> dict[str, int]:
        """``length * density``, rounded down to whole tokens up to rounding errors."""
        return {"capacity": max(1, math.floor(round(length * density, 6)))}

    def tokens(self, length: int, n_k: int, layer: Layer) -> int:
        """Tokens that a KV head keeps out of ``n_k``, with a budget solved for ``length``."""
        capacity = self.at(length).capacity
        return _CAPACITY if capacity is None else capacity

    def read_span(self, prompt: int, cached: int) -> Span:
        budget = self.tokens(prompt, prompt, ONLY)
        # A step sees its own token besides the kept ones; otherwise tokens since the prompt are kept.
        read = min(cached - 1, budget) + 1 if self.each_step else min(prompt, budget) + cached - prompt
        return read - 1, read + 1

    def fixed(self, capacity: int) -> tuple[int, int]:
        """The number of first and of last tokens that are always kept; they count."""
        return 0, 0

    @abstractmethod
    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """Scores of the tokens, fp32 ``[kv_heads, n_k]``; the highest are kept. Arguments as for ``keep``."""

    def keep(
        self,
        q: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        from sparse_tasks.attention.kernels.dispatch import check_sequence

        check_sequence(q, k)
        return self.kept(self.scores(q, k, impl=impl), length=length, layer=layer, impl=impl)

    def kept(self, scores: Tensor, *, length: int | None, layer: Layer, impl: str) -> Kept:
        """The tokens with the highest scores ``[kv_heads, n_k]``; the budget is solved for ``length`` or ``n_k``."""
        n_k = scores.shape[1]
        return self.choose(scores, self.tokens(n_k if length is None else length, n_k, layer), impl=impl)

    def choose(self, scores: Tensor, capacity: int, *, impl: str = "auto") -> Kept:
        """The ``capacity`` tokens with the highest scores ``[kv_heads, n_k]``, including fixed ones."""
        from sparse_tasks.attention.index import Kept
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.eviction import protect

        n_k = scores.shape[1]
        positions, counts = select_top(protect(scores, *self.fixed(capacity)), min(capacity, n_k), impl=impl)
        return Kept(positions, counts, n_k, capacity=capacity if self.each_step else None)
