"""Block-Sparse: for each block of queries the key blocks of the highest pooled scores (MInference, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import (
    block_ranking_flops,
    causal_count,
    ceil_div,
    pooled_flops,
    window_density,
)
from sparse_tasks.attention.method import METHODS, PrefillMethod, Span
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex

_TOP_K: Final = 100  # of Jiang et al.


@dataclass(frozen=True, kw_only=True)
class BlockSparse(PrefillMethod):
    """Queries and keys are averaged block by block, and the products of the averages say which blocks matter.

    The first key block and the one on the diagonal are always read, and count. Blocks of 128 are the fastest; the
    original has 64, the Sparse Frontier paper 16. Blocks below 64 are gathered into tiles of 64 queries, which compute
    what any of their blocks reads.
    """

    top_k: int | None = parameter(
        None, "key blocks of a query block; 100 if neither this nor sparsity is given", 2, kind=int
    )
    block: int = parameter(128, "positions in a block: 16, 32, 64 or 128", 16, 128)

    name: ClassVar[str] = "block_sparse"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "key blocks by products of mean queries and keys"
    unit: ClassVar[str] = "blocks"
    importance: ClassVar[str] = "mean-pooled queries and keys"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Jiang et al., 2024, arXiv:2407.02490"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("top_k",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block not in (16, 32, 64, 128):
            raise UsageError(f"{self.name}.block", self.block, "is not a size that kernels take: 16, 32, 64 or 128")

    @property
    def queries_at_once(self) -> int:
        # At density .1 of any length this keeps the index below 2% of the keys and values (32 query, 8 KV heads).
        return 8 * self.block**2

    def index_flops(self, shape: Shape, length: float) -> float:
        """Means of blocks, their products, and a ranking."""
        return pooled_flops(shape, length, self.block) + block_ranking_flops(shape, length, self.block)

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
        """The number of blocks whose exact count is nearest to the density, by bisection."""
        target = density * causal_count(length, length)
        low, high = 2, max(2, ceil_div(length, self.block))
        while low < high:
            middle = (low + high) // 2
            if self._count(length, middle) < target:
                low = middle + 1
            else:
                high = middle
        under = max(2, low - 1)
        nearer = abs(self._count(length, under) - target) <= abs(self._count(length, low) - target)
        return {"top_k": under if nearer else low}

    def _count(self, length: int, top_k: int) -> int:
        """Interactions of ``length`` queries: those on the diagonal's triangles, and whole blocks before them."""
        block, rows = self.block, ceil_div(length, self.block)
        last = length - (rows - 1) * block
        triangles = (rows - 1) * (block * (block + 1) // 2) + last * (last + 1) // 2
        # Row r has r blocks before the diagonal, and takes top_k - 1 of them at most.
        ramp = min(top_k - 1, rows - 1)
        before = ramp * (ramp - 1) // 2 + (rows - ramp) * ramp
        of_last = min(top_k - 1, rows - 1)
        return triangles + (before - of_last) * block**2 + of_last * block * last

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.block_scores import top_blocks
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.pooling import mean_pool

        check_sequence(q, k)
        n_q, n_k, block = len(q), len(k), self.block
        top_k = self.at(n_k if length is None else length).top_k or _TOP_K
        if top_k >= ceil_div(n_k, block):
            return None
        q_pool = mean_pool(q, block, offset=n_k - n_q, impl=impl)
        k_pool = mean_pool(k, block, impl=impl)
        return top_blocks(q_pool, k_pool, top_k, n_q=n_q, n_k=n_k, block_q=block, block_k=block, impl=impl)


METHODS.register("block_sparse", BlockSparse)
