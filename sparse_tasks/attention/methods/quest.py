"""Quest: the pages with the highest upper bound of scores (Tang et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.paged import PagedMethod
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex


@dataclass(frozen=True, kw_only=True)
class Quest(PagedMethod):
    """Keeps the elementwise minimum and maximum of each page's keys, which bound the scores in a page.

    The page of the current token is always read and counts. With ``sparsity`` the number of pages depends on each
    sequence's length, on the device. All layers are sparse, as in the Sparse Frontier paper; Quest's own evaluation
    leaves the first two dense.
    """

    name: ClassVar[str] = "quest"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "pages by an upper bound of their scores"
    importance: ClassVar[str] = "bound from each page's minimum and maximum keys"
    source: ClassVar[str] = "Tang et al., 2024, arXiv:2406.10774"
    any_softmax: ClassVar[bool] = True

    def index_reads(self, shape: Shape, length: float) -> float:
        """The minimum and the maximum of each page."""
        return shape.kv_heads * 2 * shape.head_size * length / self.page

    def new_state(self, cache: PagedCache) -> Tensor:
        from sparse_tasks.attention.kernels.page_summaries import new_page_summaries

        return new_page_summaries(cache.keys, self.page)

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        from sparse_tasks.attention.kernels.page_summaries import update_page_summaries

        if state is not None:
            update_page_summaries(state, keys, slots, unit=self.page, block_size=block_size, impl=impl)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        """As in the base class; without a state, summaries are computed from the cache at every call."""
        from sparse_tasks.attention.kernels.page_scores import page_scores
        from sparse_tasks.attention.kernels.page_summaries import page_summaries

        summaries = page_summaries(cache, self.page, impl=impl) if state is None else state
        return self.best(page_scores(q, summaries, cache, unit=self.page, current=True, impl=impl), cache, impl)


METHODS.register("quest", Quest)
