"""Quest: the pages whose best possible score for the query is highest (Tang et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import METHODS, DecodeMethod, Span
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex

_TOKEN_BUDGET: Final = 1024  # of Tang et al. for long inputs


@dataclass(frozen=True, kw_only=True)
class Quest(DecodeMethod):
    """Keeps the smallest and largest key of each page, number by number, and so bounds what a page can score.

    The page of the current token is always read and counts. With ``sparsity`` the pages follow each sequence's own
    length, on the device. All layers are treated alike, as in the Sparse Frontier paper; Quest's own evaluation leaves
    the first two dense.
    """

    token_budget: int | None = parameter(
        None, "tokens to read, in whole pages; 1024 if neither this nor sparsity is given", 1, kind=int
    )
    page: int = parameter(16, "tokens in a page; it divides the block size of a paged cache", 1)

    name: ClassVar[str] = "quest"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "pages by an upper bound of their scores"
    unit: ClassVar[str] = "pages"
    importance: ClassVar[str] = "bound from each page's minimum and maximum keys"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Tang et al., 2024, arXiv:2406.10774"
    recordable: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("token_budget",)

    def index_reads(self, shape: Shape, length: float) -> float:
        """The smallest and the largest key of each page."""
        return shape.kv_heads * 2 * shape.head_size * length / self.page

    def read_span(self, prompt: int, cached: int) -> Span:
        if self.sparsity is None:
            pages = max(1, (self.token_budget or _TOKEN_BUDGET) // self.page)
            return (pages - 1) * self.page + 1, pages * self.page  # the last page may be a part, and is always read
        target = (1 - self.sparsity) * cached
        return target - self.page / 2, max(self.page, target + self.page / 2)

    def solve(self, length: int, density: float) -> dict[str, int]:
        from sparse_tasks.attention.kernels.page_budgets import page_budget

        return {"token_budget": page_budget(length, density, self.page) * self.page}

    def new_state(self, cache: PagedCache) -> Tensor:
        from sparse_tasks.attention.kernels.page_summaries import new_page_summaries

        return new_page_summaries(cache.keys, self.page)

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        from sparse_tasks.attention.kernels.page_summaries import update_page_summaries

        if state is not None:
            update_page_summaries(state, keys, slots, unit=self.page, block_size=block_size, impl=impl)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        """As declared; without a state, summaries are made of the cache's keys at every call."""
        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.page_budgets import page_budget, page_budgets
        from sparse_tasks.attention.kernels.page_scores import page_scores
        from sparse_tasks.attention.kernels.page_summaries import page_summaries
        from sparse_tasks.attention.kernels.selection import select_top

        summaries = page_summaries(cache, self.page, impl=impl) if state is None else state
        scores = page_scores(q, summaries, cache, unit=self.page, current=True, impl=impl)
        if self.sparsity is None:
            most = max(1, (self.token_budget or _TOKEN_BUDGET) // self.page)
            counts: int | Tensor = most
        else:
            density = 1 - self.sparsity
            counts = cache.once(
                ("pages", density, self.page),
                lambda: page_budgets(cache.lengths, density, self.page, impl=impl)[:, None],
            )
            # A last page in part leaves room for at most one more than whole pages would.
            most = page_budget(cache.capacity, density, self.page) + 1
        pages, counts = select_top(scores, counts, width=most, impl=impl)
        return PageIndex(pages, counts, self.page, cache.lengths)


METHODS.register("quest", Quest)
