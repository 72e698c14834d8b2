"""Twilight: the fewest of Quest's tokens that hold a share of the attention (Lin et al. 2025, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import METHODS, DecodeMethod, Span
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex

_P: Final = 0.85  # of Lin et al.
_LEVELS: Final = 7  # of a signed 4-bit number, on either side of 0


@dataclass(frozen=True, kw_only=True)
class Twilight(DecodeMethod):
    """Hierarchical top-p: Quest takes too many pages, and each KV head keeps as many of their tokens as it needs.

    The share is estimated with keys rounded to 4 bits, one scale for each token and KV head; estimates are summed over
    the group.

    Adaptive: the count follows the content. With ``sparsity`` all KV heads of a sequence use the same ``p``, solved at
    every step so that they keep ``1 - sparsity`` of the tokens on average; heads keep different numbers. Quest then
    takes at least twice that.
    """

    p: float | None = parameter(
        None,
        "share of the estimated attention to keep; .85 if neither this nor sparsity is given",
        0.0,
        1.0,
        kind=float,
    )
    base: float = parameter(0.25, "share of the tokens that Quest takes first", 0.01, 1.0)
    page: int = parameter(16, "tokens in a page; it divides the block size of a paged cache", 1)

    name: ClassVar[str] = "twilight"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "top-p tokens of Quest's pages"
    unit: ClassVar[str] = "tokens"
    importance: ClassVar[str] = "Quest's bound, then softmax with 4-bit keys"
    budget: ClassVar[str] = "threshold, adaptive across heads"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Lin et al., 2025, arXiv:2502.02770"
    any_softmax: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    budgets: ClassVar[tuple[str, ...]] = ("p",)

    @property
    def _first_share(self) -> float:
        """Share of the tokens that Quest takes first."""
        return self.base if self.sparsity is None else min(1.0, max(self.base, 2 * (1 - self.sparsity)))

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_decode", {"shared": True}

    @cached_property
    def _quest(self) -> Quest:
        """The Quest method for these tokens, cached, since every step of every layer needs it."""
        return Quest(page=self.page, sparsity=1 - self._first_share)

    def index_reads(self, shape: Shape, length: float) -> float:
        """Quest's, and the keys of the tokens that it takes first, read in full before rounding."""
        return self._quest.index_reads(shape, length) + shape.kv_heads * shape.head_size * self._first_share * length

    def read_span(self, prompt: int, cached: int) -> Span:
        if self.sparsity is None:
            return 1, max(self.page, self.base * cached + self.page / 2)  # from the pages that Quest takes first
        target = (1 - self.sparsity) * cached
        return min(target - 0.5, self._first_share * cached - self.page / 2), target + 0.5

    def new_state(self, cache: PagedCache) -> Tensor:
        return self._quest.new_state(cache)

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        self._quest.update(state, keys, slots, block_size, impl=impl)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.mass import mass_from
        from sparse_tasks.attention.kernels.selection import select_mass
        from sparse_tasks.attention.kernels.step_weights import step_weights
        from sparse_tasks.attention.ops.pooled import top_of_all_heads

        first = self._quest.select(q, cache, state, impl=impl)
        weights = step_weights(q, cache, first, levels=_LEVELS, softmax=self.softmax, impl=impl)
        width = weights.shape[2]
        if self.sparsity is None:
            chosen, counts = select_mass(weights, _P if self.p is None else self.p, width=width, impl=impl)
        else:
            total = (cache.lengths.double() * (cache.kv_heads * (1 - self.sparsity))).round()
            total = total.clamp_min(cache.kv_heads).int()
            chosen, counts = top_of_all_heads(mass_from(weights, impl=impl), total, width=width, impl=impl)
        inside = chosen.clamp(0, width - 1).long()  # undefined past the counts
        tokens = first.pages.gather(2, torch.div(inside, self.page, rounding_mode="floor")) * self.page
        return PageIndex(tokens + (inside % self.page).int(), counts, 1, cache.lengths)


METHODS.register("twilight", Twilight)
