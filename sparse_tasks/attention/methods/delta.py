"""Delta attention: a few dense queries correct the others (Willette et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from sparse_tasks.attention.interactions import BLOCK
from sparse_tasks.attention.method import METHODS, Correction, PrefillMethod, Span
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import CorrectedIndex


@dataclass(frozen=True, kw_only=True)
class Delta(Correction):
    """At regular intervals a query is also dense, and its difference to sparse attention is added up to the next one.

    The difference is between outputs, so any method can be corrected: ``vertical_slash+delta``; alone it corrects
    ``streaming_llm``. The first query of each call is dense, since earlier differences are lost. Dense queries use
    torch's own attention on every device. Prompts of at most 128 tokens are dense.

    ``sparsity`` is that of both: the cost of dense queries reduces the other method's budget. If they would take more
    than half of the total, there are fewer of them; if it omits less than they cost, attention is dense.
    """

    every: int = parameter(64, "positions from one dense query to the next; more where sparsity leaves too little", 2)

    name: ClassVar[str] = "delta"
    place: ClassVar[int] = 8
    summary: ClassVar[str] = "another method, corrected by the output of a few dense queries"
    unit: ClassVar[str] = "whole queries, beside what another method takes"
    importance: ClassVar[str] = "that of the other method; queries at regular intervals"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Willette et al., 2025, arXiv:2505.11254"
    exact: ClassVar[bool] = True
    any_softmax: ClassVar[bool] = True

    @property
    def observes(self) -> int:
        return self._other.observes

    @property
    def queries_at_once(self) -> int | None:
        return self._other.queries_at_once

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return self._other.oracle

    def at(self, length: int) -> Self:
        if self.sparsity is None or not self.exact:
            return self
        return self._here(replace(self, of=self._other.at(length), every=self._spacing))

    def density_span(self, length: int) -> Span:
        least, most = self._other.density_span(length)
        share = 1 / self._spacing
        # The first query of each chunk is also dense; chunks are assumed to be at least one interval long.
        return min(1.0, least), most + 2 * share + 2 / length

    def index_flops(self, shape: Shape, length: float) -> float:
        return self._other.index_flops(shape, length)

    def stretches(self, n_q: int, n_k: int, length: int) -> list[int]:
        return self._other.stretches(n_q, n_k, length)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> CorrectedIndex | None:
        from sparse_tasks.attention.index import CorrectedIndex
        from sparse_tasks.attention.kernels.dispatch import check_sequence

        check_sequence(q, k)
        if len(k) <= BLOCK:
            return None
        index = self._other.select(q, k, length=length, impl=impl)
        if index is None or isinstance(index, CorrectedIndex):
            return index
        return CorrectedIndex(index, self._spacing)

    @property
    def _spacing(self) -> int:
        """Positions from one dense query to the next; dense queries take at most half of the density."""
        return self.every if self.sparsity is None else max(self.every, math.ceil(2 / (1 - self.sparsity)))

    @property
    def _other(self) -> PrefillMethod:
        """The corrected method in the same model, with the budget that the dense queries leave."""
        other = StreamingLLM(sparsity=self.sparsity) if self.of is None else self.of
        if self.sparsity is not None:
            share = 1 / self._spacing
            other = other._here(replace(other, sparsity=self.sparsity + share if self.sparsity > share else 0.0))
        return self._here(other)


METHODS.register("delta", Delta)
