"""Random blocks for prompts: a lower baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import block_ranking_flops, ceil_div
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.blocks import BlockMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex


@dataclass(frozen=True, kw_only=True)
class RandomPrefill(BlockMethod):
    """Each query block reads random key blocks, and the first one and the one on the diagonal.

    A draw depends only on the seed, the head and the two blocks, so it is the same in all chunks, batches and engines.
    It is the same in all layers, since the method does not know its layer.
    """

    seed: int = parameter(0, "another seed draws other blocks", 0)

    name: ClassVar[str] = "random_prefill"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "control: key blocks at random"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "random"
    source: ClassVar[str] = "Zaheer et al., 2020, arXiv:2007.14062"
    any_softmax: ClassVar[bool] = True

    def index_flops(self, shape: Shape, length: float) -> float:
        """A draw for each block, and a ranking."""
        draws = shape.query_heads * (length / self.block) ** 2
        return draws + block_ranking_flops(shape, length, self.block)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        import torch

        from sparse_tasks.attention.index import BlockIndex
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.draws import draws

        check_sequence(q, k)
        n_q, n_k, block = len(q), len(k), self.block
        top_k, columns = self.blocks_read(n_k if length is None else length), ceil_div(n_k, block)
        if top_k >= columns:
            return None
        head = torch.arange(q.shape[1], device=q.device)[:, None, None] + self.layer.rank * q.shape[1]
        row = torch.arange((n_k - n_q) // block, columns, device=q.device)[:, None]
        column = torch.arange(columns, device=q.device)
        scores = draws(self.seed, head, row, column).masked_fill(column > row, float("-inf"))
        scores = scores.masked_fill((column == 0) | (column == row), float("inf"))
        blocks, counts = select_top(scores, top_k, impl=impl)
        return BlockIndex(blocks, counts, block, block, n_q, n_k)


METHODS.register("random_prefill", RandomPrefill)
