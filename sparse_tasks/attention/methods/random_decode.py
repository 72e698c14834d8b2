"""Random pages for decoding: a lower baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.paged import PagedMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex


@dataclass(frozen=True, kw_only=True)
class RandomDecode(PagedMethod):
    """Each KV head reads random pages, drawn anew at each step.

    The page of the current token and, if there is room, the first one are always read, and count.

    A draw depends only on the seed, the head, the length and the page, so it is the same in all batches and engines. It
    is the same in all layers, since the method does not know its layer.
    """

    seed: int = parameter(0, "another seed draws other pages", 0)

    name: ClassVar[str] = "random_decode"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "control: pages at random"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "random"
    source: ClassVar[str] = "Zaheer et al., 2020, arXiv:2007.14062"
    any_softmax: ClassVar[bool] = True

    def index_reads(self, shape: Shape, length: float) -> float:
        return 0.0  # reads no keys

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.interactions import ceil_div
        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.ops.draws import draws

        check_queries(q, cache)
        length, page = cache.lengths[:, None, None], torch.arange(ceil_div(cache.capacity, self.page), device=q.device)
        head = torch.arange(cache.kv_heads, device=q.device)[:, None] + cache.layer.rank * cache.kv_heads
        scores = draws(self.seed, head, length, page)
        current = torch.div(length - 1, self.page, rounding_mode="floor")
        scores = scores.masked_fill(page == 0, 1.0)  # above any draw
        scores = scores.masked_fill(page == current, float("inf")).masked_fill(page > current, float("-inf"))
        return self.best(scores, cache, impl)


METHODS.register("random_decode", RandomDecode)
