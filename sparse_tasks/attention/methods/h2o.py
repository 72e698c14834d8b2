"""H2O: the tokens with the most accumulated attention, and the most recent ones (Zhang et al. 2023, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS, ONLY, Layer, StepMethod
from sparse_tasks.attention.methods.capacity import CapacityMethod

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept, KeptBatch


@dataclass(frozen=True, kw_only=True)
class H2O(StepMethod, CapacityMethod):
    """Half of the capacity is for heavy hitters, by the attention of all queries so far; half for the last tokens.

    ``keep`` needs all queries of the prompt: its cost is that of dense attention. Then each step adds its weights, and
    the token with the lowest sum that is not recent is dropped.
    """

    name: ClassVar[str] = "h2o"
    place: ClassVar[int] = 5
    summary: ClassVar[str] = "heavy hitters and recent tokens"
    importance: ClassVar[str] = "accumulated attention of all queries"
    cache: ClassVar[str] = "evicted after the prompt and at each step"
    source: ClassVar[str] = "Zhang et al., 2023, arXiv:2306.14048"
    any_softmax: ClassVar[bool] = True

    def fixed(self, capacity: int) -> tuple[int, int]:
        return 0, capacity - capacity // 2

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        from sparse_tasks.attention.kernels.window_scores import window_scores

        vertical = window_scores(q, k, len(q), softmax=self.softmax, slashes=False, impl=impl).vertical
        return vertical.view(k.shape[1], -1, len(k)).sum(1)

    def observe(self, seen: Tensor | None, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """fp32 ``[kv_heads, n_k]``: attention of the queries so far; a chunk contains whole queries."""
        scores = self.scores(q, k, impl=impl)
        if seen is not None:
            scores[:, : seen.shape[1]] += seen
        return scores

    def settle(
        self,
        seen: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        return self.kept(seen, length=length, layer=layer, impl=impl)

    def choose(self, scores: Tensor, capacity: int, *, impl: str = "auto") -> Kept:
        kept = super().choose(scores, capacity, impl=impl)
        return replace(kept, scores=scores.gather(1, kept.positions.long()))

    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        from sparse_tasks.attention.ops.eviction import drop_lowest

        scores = weights if seen.scores is None else seen.scores + weights
        return drop_lowest(replace(seen, scores=scores), scores, seen.capacities - seen.capacities // 2)


METHODS.register("h2o", H2O)
