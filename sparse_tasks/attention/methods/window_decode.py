"""The cheapest baseline for decoding: the first tokens and the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.paged import TOKEN_BUDGET, PagedMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex


@dataclass(frozen=True, kw_only=True)
class WindowDecode(PagedMethod):
    """Each step reads the first pages, at most half of the budget, and the last ones."""

    page: int = parameter(1, "tokens in a page, 1 for tokens; it divides the block size of a paged cache", 1)
    sinks: int = parameter(4, "first pages that are always read", 0)

    name: ClassVar[str] = "window_decode"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "control: first tokens and a window of the last ones"
    unit: ClassVar[str] = "sinks and a window"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "fixed"
    source: ClassVar[str] = "Xiao et al., 2023, arXiv:2309.17453"
    any_softmax: ClassVar[bool] = True

    def index_reads(self, shape: Shape, length: float) -> float:
        return 0.0  # reads no keys

    def unseen(self, prompt: int, position: int) -> range:
        current, first = position // self.page, self.sinks * self.page
        # The budget is largest at the start of a page, and grows by at most a page from one to the next.
        budget = self.at(current * self.page + 1).token_budget or TOKEN_BUDGET
        pages = max(1, budget // self.page)
        window = pages - min(self.sinks, pages // 2)
        return range(first, max(first, (current + 1 - window) * self.page))

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.interactions import ceil_div
        from sparse_tasks.attention.kernels.sparse_decode import check_queries

        check_queries(q, cache)
        counts, _ = self.pages_read(cache, impl)
        page = torch.arange(ceil_div(cache.capacity, self.page), device=q.device)
        current = torch.div(cache.lengths[:, None] - 1, self.page, rounding_mode="floor")
        scores = torch.where(page <= current, page.float(), float("-inf"))
        scores = scores.masked_fill((page < self.sinks) & (page < counts // 2) & (page <= current), float("inf"))
        return self.best(scores[:, None].repeat(1, cache.kv_heads, 1), cache, impl)


METHODS.register("window_decode", WindowDecode)
