"""BLASST: key blocks that the online softmax of a kernel would not skip (Yuan et al. 2025, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import BLOCK, window_density, window_flops
from sparse_tasks.attention.method import METHODS, Span
from sparse_tasks.attention.methods.adaptive import AdaptiveBlocks
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex

_SCALE: Final = 32.0
_GREATEST: Final = 80.0  # a lead whose exponential is finite


@dataclass(frozen=True, kw_only=True)
class Blast(AdaptiveBlocks):
    """A kernel that goes backwards from the diagonal skips key blocks where no query comes near its running maximum.

    A tile of 64 queries by 128 keys is skipped if, for each of its queries, its largest score minus the running maximum
    is below the logarithm of a threshold. The threshold is ``scale`` over the length of the prompt, since each block
    weighs less in longer ones (section 3.3), and at most 1. The tile on the diagonal comes first and is always read.

    Adaptive: the count follows the content. With ``scale`` Gluon's kernel skips on the fly, and nothing is selected in
    advance. With ``sparsity`` every call, for at most 8,192 queries, finds the threshold at which its heads compute ``1
    - sparsity`` on average, for which all scores are computed once more. A kernel still computes the scores of skipped
    tiles, so it saves at most half of its work; the measured sparsity is what it omits from the output.
    """

    scale: float | None = parameter(
        None, "threshold times the length of the prompt; 32 if neither this nor sparsity is given", 0.0, kind=float
    )

    name: ClassVar[str] = "blast"
    place: ClassVar[int] = 7
    summary: ClassVar[str] = "key blocks near the running maximum of the softmax"
    unit: ClassVar[str] = "blocks"
    importance: ClassVar[str] = "largest score of a block over those between it and the query"
    source: ClassVar[str] = "Yuan et al., 2025, arXiv:2512.12087"
    budgets: ClassVar[tuple[str, ...]] = ("scale",)
    any_softmax: ClassVar[bool] = True

    def density_span(self, length: int) -> Span:
        return (window_density(length, BLOCK // 2), 1.0) if self.sparsity is None else super().density_span(length)

    def index_flops(self, shape: Shape, length: float) -> float:
        """All scores below the diagonal; none if the kernel itself skips."""
        return window_flops(shape, length, length / 2)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.index import SkipIndex
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.coverage import blocks_that_hold
        from sparse_tasks.attention.ops.true_mass import block_lead

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        if n_k <= BLOCK or self.sparsity == 0 or self.scale == 0:
            return None
        tile = SkipIndex.block_q, SkipIndex.block_k
        lead = block_lead(q, k, *tile, self.softmax)
        ratio = lead.clamp_max(_GREATEST).exp().masked_fill_(lead == math.inf, math.inf)
        share = 1 - self._threshold(n_k if length is None else length)
        density = None if self.sparsity is None else 1 - self.sparsity
        return blocks_that_hold(
            ratio, n_q=n_q, n_k=n_k, share=share, density=density, block_q=tile[0], block=tile[1], impl=impl
        )

    def skip_threshold(self, n_k: int, length: int) -> float | None:
        if n_k <= BLOCK or self.sparsity is not None or self.scale == 0:
            return None
        return self._threshold(length)

    def _threshold(self, length: int) -> float:
        return min(1.0, (_SCALE if self.scale is None else self.scale) / length)


METHODS.register("blast", Blast)
