"""FlexPrefill: a pattern and a budget per head, from the attention of the last queries (Lai et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import (
    BLOCK,
    block_ranking_flops,
    ceil_div,
    pooled_flops,
    ranking_flops,
    window_flops,
)
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.adaptive import QUERIES, AdaptiveBlocks
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex

_GAMMA: Final = 0.9  # of Lai et al.


@dataclass(frozen=True, kw_only=True)
class FlexPrefill(AdaptiveBlocks):
    """A head is query-aware or vertical-slash, and takes the blocks of 128 that hold ``gamma`` of its attention.

    The last 128 queries of a call give the attention to each key block. If their mean, with the means of the key
    blocks, gives almost the same (the root of the Jensen-Shannon divergence is below ``tau``), means are trusted: the
    head is query-aware, and each query block takes the fewest key blocks that hold ``gamma`` of its softmax of means.
    The paper chooses over all query blocks together; choosing by row, every query block gets some. Other heads take the
    fewest verticals and the fewest slashes, all one block wide, that hold ``gamma`` of the attention of the last 128
    queries by key and by distance. The first key block and the diagonal are always read, and count.

    Adaptive: the count follows the content. With ``sparsity`` every call, for at most 8,192 queries, finds the
    ``gamma`` at which its heads compute ``1 - sparsity`` on average, and ``min_budget`` does not apply; the last line
    may be partial. If the first block and the diagonal alone would exceed it, in short prompts, the first block is read
    only if it ranks among the best.
    """

    gamma: float | None = parameter(
        None, "share of the estimated attention to keep; .9 if neither this nor sparsity is given", 0.0, 1.0, kind=float
    )
    tau: float = parameter(0.1, "distance below which a head is query-aware; 0: none is", 0.0, 1.0)
    min_budget: int = parameter(
        512, "tokens that verticals, slashes, and query blocks of query-aware heads take at least, in whole blocks", 0
    )

    name: ClassVar[str] = "flexprefill"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "a pattern for each head, and as many blocks as it needs"
    unit: ClassVar[str] = "blocks, or verticals and slashes of blocks"
    importance: ClassVar[str] = "attention of the last queries, or mean-pooled queries and keys"
    source: ClassVar[str] = "Lai et al., 2025, arXiv:2502.20766"
    budgets: ClassVar[tuple[str, ...]] = ("gamma",)

    @property
    def observes(self) -> int:
        return BLOCK

    def index_flops(self, shape: Shape, length: float) -> float:
        """The last 128 queries of each stretch, products of pooled blocks unless tau is 0, and rankings."""
        whole, rest = divmod(length, QUERIES)
        keys = QUERIES * whole * (whole + 1) / 2 + (length if rest else 0)  # of all chunks
        seen = window_flops(shape, min(length, BLOCK), keys) + shape.query_heads * 2 * ranking_flops(keys)
        aware = pooled_flops(shape, length, BLOCK) if self.tau > 0 else 0.0
        return seen + aware + block_ranking_flops(shape, length, BLOCK)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.coverage import blocks_that_hold, room_for_first
        from sparse_tasks.attention.ops.flex import flex_mass

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        gamma = _GAMMA if self.gamma is None else self.gamma
        density = None if self.sparsity is None else 1 - self.sparsity
        least = ceil_div(self.min_budget, BLOCK) if density is None else 0
        if n_k <= BLOCK * max(1, least) or (gamma if density is None else density) == 1:
            return None
        mass = flex_mass(q, k, tau=self.tau, first=room_for_first(n_q, n_k, density), least=least, impl=impl)
        return blocks_that_hold(mass, n_q=n_q, n_k=n_k, share=gamma, density=density, impl=impl)


METHODS.register("flexprefill", FlexPrefill)
