"""Base of decoding methods that read the best pages, with a token budget and a fixed page size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import DecodeMethod, Span
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex

TOKEN_BUDGET: Final = 1024  # of Tang et al. for long inputs


@dataclass(frozen=True, kw_only=True)
class PagedMethod(DecodeMethod):
    """All KV heads read the same number of pages. With ``sparsity`` it depends on each sequence's length."""

    token_budget: int | None = parameter(
        None, "tokens to read, in whole pages; 1024 if neither this nor sparsity is given", 1, kind=int
    )
    page: int = parameter(16, "tokens in a page; it divides the block size of a paged cache", 1)

    unit: ClassVar[str] = "pages"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    recordable: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("token_budget",)

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_decode", {"page": self.page}

    def read_span(self, prompt: int, cached: int) -> Span:
        if self.sparsity is None:
            pages = max(1, (self.token_budget or TOKEN_BUDGET) // self.page)
            return (pages - 1) * self.page + 1, pages * self.page  # the last page may be partial, and is always read
        target = (1 - self.sparsity) * cached
        return target - self.page / 2, max(self.page, target + self.page / 2)

    def solve(self, length: int, density: float) -> dict[str, int]:
        from sparse_tasks.attention.kernels.page_budgets import page_budget

        return {"token_budget": page_budget(length, density, self.page) * self.page}

    def pages_read(self, cache: PagedCache, impl: str) -> tuple[int | Tensor, int]:
        """Pages that a KV head of each sequence reads, int32 ``[batch, 1]`` or one number; and the maximum."""
        from sparse_tasks.attention.kernels.page_budgets import page_budget, page_budgets

        if self.sparsity is None:
            most = max(1, (self.token_budget or TOKEN_BUDGET) // self.page)
            return most, most
        density = 1 - self.sparsity
        counts = cache.once(
            ("pages", density, self.page), lambda: page_budgets(cache.lengths, density, self.page, impl=impl)[:, None]
        )
        # A partial last page leaves room for at most one more page.
        return counts, page_budget(cache.capacity, density, self.page) + 1

    def best(self, scores: Tensor, cache: PagedCache, impl: str) -> PageIndex:
        """The index of the pages with the highest scores, fp32 ``[batch, kv_heads, pages]``, -inf if absent."""
        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.selection import select_top

        counts, most = self.pages_read(cache, impl)
        pages, counts = select_top(scores, counts, width=most, impl=impl)
        return PageIndex(pages, counts, self.page, cache.lengths)
