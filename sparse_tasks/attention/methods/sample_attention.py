"""SampleAttention: a window, and the columns that sampled queries attend to outside it (Zhu et al. 2024, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import (
    BLOCK,
    causal_count,
    ceil_div,
    ranking_flops,
    window_density,
    window_flops,
)
from sparse_tasks.attention.method import METHODS, PrefillMethod, Span
from sparse_tasks.attention.methods.lines import BLOCK_Q, UNIT
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import LineIndex

_ALPHA: Final = 0.95  # of Zhu et al.
_OWN: Final = BLOCK_Q // UNIT  # bands of a query's own block


@dataclass(frozen=True, kw_only=True)
class SampleAttention(PrefillMethod):
    """Attention is computed for regularly sampled queries, to find the columns that a head attends to.

    Each query sees a window, a share of the prompt's length in whole tiles; a head takes the fewest columns that, with
    the window, hold a share ``alpha`` of the sampled queries' attention. Prompts of at most 128 tokens are dense.

    Adaptive: the count follows the content. With ``sparsity`` every call finds the ``alpha`` at which its heads compute
    ``1 - sparsity`` on average, and the window takes at most half of that. A head takes at most three times the average
    number of columns.
    """

    alpha: float | None = parameter(
        None, "share of the sampled attention to hold; .95 if neither this nor sparsity is given", 0.0, 1.0, kind=float
    )
    stride: int = parameter(20, "positions from one sampled query to the next, back from the last", 1)
    window: float = parameter(0.08, "share of the prompt's length that each query sees before it", 0.0, 1.0)

    name: ClassVar[str] = "sample_attention"
    place: ClassVar[int] = 10
    summary: ClassVar[str] = "a window, and columns by the attention of sampled queries"
    unit: ClassVar[str] = "a window and verticals"
    importance: ClassVar[str] = "attention of queries at regular intervals"
    budget: ClassVar[str] = "threshold, adaptive across heads"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Zhu et al., 2024, arXiv:2406.15486"
    exact: ClassVar[bool] = False
    any_softmax: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("alpha",)

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_lines", {}

    def index_flops(self, shape: Shape, length: float) -> float:
        """Attention of the sampled queries to all keys before them, and a ranking."""
        return window_flops(shape, length / self.stride, length / 2) + shape.query_heads * ranking_flops(length)

    def density_span(self, length: int) -> Span:
        if self.sparsity is None:
            return window_density(length, min(length, max(1, math.ceil(self.window * length)))), 1.0
        density = 1 - self.sparsity
        # A query's own block is always read; heads at their maximum of columns read less.
        return density / 2 - 4 / length, density + 2.1 * BLOCK / length

    def bands(self, n_q: int, n_k: int, length: int) -> int:
        """Bands of the window: enough for all queries to see its share of the length, as far as sparsity allows."""
        bands = ceil_div(max(1, math.ceil(self.window * length)) + BLOCK_Q - 1, UNIT)
        if self.sparsity is not None:
            half = (1 - self.sparsity) * causal_count(n_q, n_k) / 2
            bands = min(bands, int(half / (n_q * UNIT)))
        return max(_OWN, bands)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.sampled import columns_that_hold, outside_window

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        alpha, density = _ALPHA if self.alpha is None else self.alpha, None
        width = n_k
        if self.sparsity is not None:
            alpha, density = 1.0, 1 - self.sparsity
            width = math.ceil(3 * density * n_k)
        if n_k <= BLOCK or (alpha if density is None else density) == 1:
            return None
        bands = self.bands(n_q, n_k, n_k if length is None else length)
        outside, sampled = outside_window(
            q, k, stride=self.stride, bands=bands, block_q=BLOCK_Q, unit=UNIT, softmax=self.softmax, impl=impl
        )
        return columns_that_hold(
            outside, sampled, bands=bands, n_q=n_q, n_k=n_k, block_q=BLOCK_Q, unit=UNIT, share=alpha, density=density,
            width=width, impl=impl,
        )  # fmt: skip


METHODS.register("sample_attention", SampleAttention)
