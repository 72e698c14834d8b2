"""Oracle for prompts: the key blocks that hold most of the true attention of each block of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparse_tasks.attention.interactions import block_ranking_flops, ceil_div, window_flops
from sparse_tasks.attention.method import METHODS, Span
from sparse_tasks.attention.methods.blocks import BlockMethod
from sparse_tasks.attention.methods.true_attention import TrueAttention
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex


@dataclass(frozen=True, kw_only=True)
class OraclePrefill(TrueAttention, BlockMethod):
    """Softmax weights of all queries, summed over blocks, select the key blocks of a query block.

    An upper bound for methods that take the same number of blocks of this size for each query block; with ``shared``,
    the same number in total, as for methods with a threshold. The block on the diagonal is always read, and counts.
    Weights are computed for some blocks of queries at a time.
    """

    name: ClassVar[str] = "oracle_prefill"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "control: key blocks by the true attention"
    any_softmax: ClassVar[bool] = True

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return self.name, {"block": self.block, "shared": self.shared}

    def at(self, length: int) -> Self:
        return self if self.shared else super().at(length)

    def density_span(self, length: int) -> Span:
        return (0.0, 1.0) if self.p is not None else super().density_span(length)

    def index_flops(self, shape: Shape, length: float) -> float:
        """Attention of all queries, and a ranking."""
        return window_flops(shape, length, length) + block_ranking_flops(shape, length, self.block)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        import torch

        from sparse_tasks.attention.index import BlockIndex
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.mass import mass_from
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.coverage import blocks_that_hold
        from sparse_tasks.attention.ops.true_mass import block_mass

        check_sequence(q, k)
        n_q, n_k, block = len(q), len(k), self.block
        top_k = None if self.shared or self.p is not None else self.blocks_read(n_k if length is None else length)
        if self.sparsity == 0 or self.p == 1 or (top_k is not None and top_k >= ceil_div(n_k, block)):
            return None
        mass = block_mass(q, k, block, self.softmax)
        row = torch.arange(mass.shape[1], device=q.device)[:, None] + (n_k - n_q) // block
        diagonal = torch.arange(mass.shape[2], device=q.device) == row
        if self.p is not None:
            mass = mass_from(mass, diagonal, impl=impl)
            return blocks_that_hold(mass, n_q=n_q, n_k=n_k, share=self.p, block=block, impl=impl)
        mass = mass.masked_fill(diagonal, float("inf"))
        if top_k is None and self.sparsity is not None:
            density = 1 - self.sparsity
            return blocks_that_hold(mass, n_q=n_q, n_k=n_k, density=density, block=block, impl=impl)
        blocks, counts = select_top(mass, top_k or 0, impl=impl)
        return BlockIndex(blocks, counts, block, block, n_q, n_k)


METHODS.register("oracle_prefill", OraclePrefill)
