"""Ada-SnapKV: SnapKV with a budget that the heads of a layer share (Feng et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.observed import ObservedMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept


@dataclass(frozen=True, kw_only=True)
class AdaSnapKV(ObservedMethod):
    """Each KV head keeps its best tokens up to a floor; the rest of the budget goes to the best tokens of all heads.

    A token's score is the largest attention from a query head of its group. The heads keep exactly ``capacity`` tokens
    on average.
    """

    floor: float = parameter(0.2, "share of its capacity that each head keeps in any case", 0.0, 1.0)

    name: ClassVar[str] = "ada_snapkv"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "SnapKV with a budget shared across heads"
    budget: ClassVar[str] = "adaptive across heads"
    source: ClassVar[str] = "Feng et al., 2024, arXiv:2407.11550"
    any_softmax: ClassVar[bool] = True

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_evict", {"shared": True}

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return self.observed(q, k, impl=impl).amax(1)

    def choose(self, scores: Tensor, capacity: int, *, impl: str = "auto") -> Kept:
        from sparse_tasks.attention.index import Kept
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.eviction import protect
        from sparse_tasks.attention.ops.pooled import top_of_all_heads

        heads, n_k = scores.shape
        capacity = min(capacity, n_k)
        scores = protect(scores, *self.fixed(capacity))
        least = max(sum(self.fixed(capacity)), int(self.floor * capacity))
        if least:
            own, _ = select_top(scores, least, impl=impl)  # the same number in every head, so no entry is undefined
            scores = scores.scatter(1, own.long(), float("inf"))
        most = min(n_k, heads * capacity - (heads - 1) * least)
        positions, counts = top_of_all_heads(scores, heads * capacity, width=most, impl=impl)
        return Kept(positions, counts, n_k)


METHODS.register("ada_snapkv", AdaSnapKV)
