"""Oracle for decoding: the pages that hold most of the true attention of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparse_tasks.attention.method import METHODS, Span
from sparse_tasks.attention.methods.paged import PagedMethod
from sparse_tasks.attention.methods.true_attention import TrueAttention
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex


@dataclass(frozen=True, kw_only=True)
class OracleDecode(TrueAttention, PagedMethod):
    """Softmax weights of the step's queries, summed over pages and the group, select the pages of a KV head.

    An upper bound for methods that read the same number of pages of this size in each KV head; with ``shared``, in all
    KV heads together. The page of the current token is always read, and counts. Selection reads all keys.
    """

    page: int = parameter(1, "tokens in a page, 1 for tokens; it divides the block size of a paged cache", 1)

    name: ClassVar[str] = "oracle_decode"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "control: tokens or pages by the true attention"
    any_softmax: ClassVar[bool] = True
    unit: ClassVar[str] = "tokens or pages"

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return self.name, {"page": self.page, "shared": self.shared}

    def at(self, length: int) -> Self:
        return self if self.shared else super().at(length)

    def index_reads(self, shape: Shape, length: float) -> float:
        """Every key."""
        return shape.kv_heads * shape.head_size * length

    def read_span(self, prompt: int, cached: int) -> Span:
        return (1, cached) if self.p is not None else super().read_span(prompt, cached)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.selection import select_mass
        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.ops.pooled import top_of_all_heads
        from sparse_tasks.attention.ops.true_mass import page_mass

        check_queries(q, cache)
        mass = page_mass(q, cache, self.page, self.softmax, impl=impl)
        width = mass.shape[2]
        if self.p is not None:
            pages, counts = select_mass(mass, self.p, width=width, impl=impl)
            return PageIndex(pages, counts, self.page, cache.lengths)
        current = torch.div(cache.lengths - 1, self.page, rounding_mode="floor")[:, None, None]
        mass = mass.masked_fill(torch.arange(width, device=q.device) == current, float("inf"))
        if self.shared:
            of_each, _ = self.pages_read(cache, impl)
            total = of_each[:, 0] * cache.kv_heads if isinstance(of_each, torch.Tensor) else of_each * cache.kv_heads
            pages, counts = top_of_all_heads(mass, total, width=width, impl=impl)
            return PageIndex(pages, counts, self.page, cache.lengths)
        return self.best(mass, cache, impl)


METHODS.register("oracle_decode", OracleDecode)
