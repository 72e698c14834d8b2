"""Oracle for eviction: at each step the tokens that its query attends to, as if only they had been kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from sparse_tasks.attention.method import METHODS, ONLY, Layer, Span, StepMethod
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.attention.methods.true_attention import TrueAttention
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept, KeptBatch


@dataclass(frozen=True, kw_only=True)
class OracleEvict(TrueAttention, StepMethod, CapacityMethod):
    """Evicts nothing, and lets each step see the ``capacity`` prompt tokens that its queries attend to most.

    An upper bound for evicting methods at this budget, which cannot know future queries. Tokens since the prompt, and
    the step's own, are seen as well; with ``grows`` off, as for methods that evict at each step, all but the step's own
    count.
    """

    grows: bool = parameter(True, "whether tokens that follow the prompt are seen beside the budget")

    name: ClassVar[str] = "oracle_evict"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "control: at each step the tokens that its query attends to"
    any_softmax: ClassVar[bool] = True
    cache: ClassVar[str] = "kept; steps read part of it"
    reads_queries: ClassVar[bool] = False

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return self.name, {"grows": self.grows, "shared": self.shared}

    def at(self, length: int) -> Self:
        return replace(self, shared=False).at(length) if self.shared else super().at(length)

    def index_flops(self, shape: Shape, length: float) -> float:
        return 0.0  # nothing is selected before the steps

    def index_reads(self, shape: Shape, length: float) -> float:
        """Every key."""
        return shape.kv_heads * shape.head_size * length

    def read_span(self, prompt: int, cached: int) -> Span:
        if self.p is not None:
            return 1, cached
        budget = self.tokens(prompt, prompt, ONLY)
        read = min(prompt, budget) + cached - prompt if self.grows else min(cached - 1, budget) + 1
        return read - 1, read + 1

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        import torch

        return torch.zeros(k.shape[1], len(k), device=k.device)

    def kept(self, scores: Tensor, *, length: int | None, layer: Layer, impl: str) -> Kept:
        """All tokens of the prompt, of score 0, with the capacity for the steps."""
        import torch

        from sparse_tasks.attention.index import Kept

        heads, n_k = scores.shape
        positions = torch.arange(n_k, dtype=torch.int32, device=scores.device).expand(heads, n_k).contiguous()
        counts = torch.full((heads,), n_k, dtype=torch.int32, device=scores.device)
        capacity = self.tokens(n_k if length is None else length, n_k, layer)
        return Kept(positions, counts, n_k, scores, capacity)

    @property
    def widens(self) -> bool:
        return not self.grows  # else such a token is always seen in addition to the budget

    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        from sparse_tasks.attention.ops.eviction import mark_written

        return mark_written(seen) if self.grows else seen

    def visible_all(self, seen: KeptBatch, weights: Tensor, *, impl: str = "auto") -> KeptBatch:
        import torch

        from sparse_tasks.attention.kernels.selection import select_mass, select_top
        from sparse_tasks.attention.ops.eviction import listing, written
        from sparse_tasks.attention.ops.pooled import top_of_all_heads

        always = written(seen)
        width, last = weights.shape[2], seen.counts[..., None] - 1
        place = torch.arange(width, device=weights.device)
        weights = weights.masked_fill(place > last, float("-inf"))
        if self.p is not None:
            columns, counts = select_mass(weights, self.p, width=width, impl=impl)
        else:
            weights = weights.masked_fill(always, float("inf"))
            budget = always.sum(2, dtype=torch.int32) + seen.capacities[:, None]
            if self.shared:
                budget = budget.sum(1, dtype=torch.int32)
                columns, counts = top_of_all_heads(weights, budget, width=width, impl=impl)
            else:
                columns, counts = select_top(weights, budget, width=width, impl=impl)
        return listing(seen, columns, counts)


METHODS.register("oracle_evict", OracleEvict)
