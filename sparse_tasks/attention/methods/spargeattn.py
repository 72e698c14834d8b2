"""SpargeAttn: selection by block means, with dissimilar blocks always read (Zhang et al. 2025, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import BLOCK, block_ranking_flops, pooled_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.adaptive import AdaptiveBlocks
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex

_CDF: Final = 0.98  # of Zhang et al.


@dataclass(frozen=True, kw_only=True)
class SpargeAttn(AdaptiveBlocks):
    """Mean queries and keys of blocks of 128 rank the key blocks, except for blocks of dissimilar tokens.

    The self-similarity of a block is the mean cosine of all pairs of its queries, or keys. If that is below
    ``similarity``, the mean is not representative: such a query block reads everything, and such a key block is read by
    all. Among other key blocks, a query block takes the fewest that hold a share ``cdf`` of its softmax of means. The
    first key block and the diagonal are always read, and count.

    Adaptive: the count follows the content. With ``sparsity`` every call, for at most 8,192 queries, finds the share at
    which its heads compute ``1 - sparsity`` on average; dissimilar blocks come before all others, and if they alone
    exceed the budget, those with the highest scores are read. If the first block and the diagonal exceed it, in short
    prompts, the first block is read only if it ranks among the best.
    """

    cdf: float | None = parameter(
        None,
        "share of the estimated attention to keep; .98 if neither it nor sparsity is given",
        0.0,
        1.0,
        kind=float,
    )
    similarity: float = parameter(0.6, "mean cosine below which a block is unlike itself; -1: none is", -1.0, 1.0)

    name: ClassVar[str] = "spargeattn"
    place: ClassVar[int] = 9
    summary: ClassVar[str] = "key blocks by mean queries and keys, and all blocks that a mean describes badly"
    unit: ClassVar[str] = "blocks"
    importance: ClassVar[str] = "mean-pooled queries and keys; self-similarity of blocks"
    source: ClassVar[str] = "Zhang et al., 2025, arXiv:2502.18137"
    budgets: ClassVar[tuple[str, ...]] = ("cdf",)

    def index_flops(self, shape: Shape, length: float) -> float:
        """Means of blocks and of their directions, products, and a ranking."""
        directions = 4 * (shape.query_heads + shape.kv_heads) * length * shape.head_size
        return pooled_flops(shape, length, BLOCK) + directions + block_ranking_flops(shape, length, BLOCK)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.mass import mass_from
        from sparse_tasks.attention.kernels.pooling import mean_pool
        from sparse_tasks.attention.ops.coverage import after_diagonal, always_read, blocks_that_hold, room_for_first
        from sparse_tasks.attention.ops.means import products_of_means, self_similarity

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        cdf = _CDF if self.cdf is None else self.cdf
        density = None if self.sparsity is None else 1 - self.sparsity
        if n_k <= BLOCK or (cdf if density is None else density) == 1:
            return None
        offset, group = n_k - n_q, q.shape[1] // k.shape[1]
        products = products_of_means(mean_pool(q, BLOCK, offset=offset, impl=impl), mean_pool(k, BLOCK, impl=impl))
        products = products.masked_fill(after_diagonal(q.device, n_q, n_k, BLOCK), float("-inf"))
        of_queries = self_similarity(q, BLOCK, offset=offset, impl=impl) < self.similarity
        of_keys = (self_similarity(k, BLOCK, impl=impl) < self.similarity).repeat_interleave(group, 0)
        always = always_read(q.device, n_q, n_k, BLOCK, room_for_first(n_q, n_k, density))
        unlike = of_queries[..., None] | of_keys[:, None]
        weights = products.masked_fill(of_keys[:, None] & ~always, float("-inf")).softmax(2)
        mass = mass_from(weights, always, impl=impl)
        # Dissimilar blocks rank above any share, the weightiest first.
        mass = mass.where(~unlike | always, 2 + products.softmax(2))
        return blocks_that_hold(mass, n_q=n_q, n_k=n_k, share=cdf, density=density, impl=impl)


METHODS.register("spargeattn", SpargeAttn)
