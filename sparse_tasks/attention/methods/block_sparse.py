"""Block-Sparse: the key blocks with the highest pooled scores for each block of queries (MInference, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import block_ranking_flops, ceil_div, pooled_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.blocks import BlockMethod
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex


@dataclass(frozen=True, kw_only=True)
class BlockSparse(BlockMethod):
    """Queries and keys are averaged by block, and the products of the averages rank the blocks.

    The first key block and the one on the diagonal are always read, and count. Blocks of 128 are the fastest; the
    original has 64, the Sparse Frontier paper 16. Blocks below 64 are gathered into tiles of 64 queries, which compute
    what any of their blocks reads.
    """

    name: ClassVar[str] = "block_sparse"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "key blocks by products of mean queries and keys"
    importance: ClassVar[str] = "mean-pooled queries and keys"
    source: ClassVar[str] = "Jiang et al., 2024, arXiv:2407.02490"
    any_softmax: ClassVar[bool] = True

    def index_flops(self, shape: Shape, length: float) -> float:
        """Means of blocks, their products, and a ranking."""
        return pooled_flops(shape, length, self.block) + block_ranking_flops(shape, length, self.block)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.block_scores import top_blocks
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.pooling import mean_pool

        check_sequence(q, k)
        n_q, n_k, block = len(q), len(k), self.block
        top_k = self.blocks_read(n_k if length is None else length)
        if top_k >= ceil_div(n_k, block):
            return None
        q_pool = mean_pool(q, block, offset=n_k - n_q, impl=impl)
        k_pool = mean_pool(k, block, impl=impl)
        return top_blocks(q_pool, k_pool, top_k, n_q=n_q, n_k=n_k, block_q=block, block_k=block, impl=impl)


METHODS.register("block_sparse", BlockSparse)
