"""SparQ: the tokens with the highest scores over the query's largest components (Ribar et al. 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.tokens import TokenMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex

_TOKEN_BUDGET: Final = 128  # of Ribar et al.


@dataclass(frozen=True, kw_only=True)
class SparQ(TokenMethod):
    """Reads ``r`` components of each key to estimate the softmax, and then the best tokens completely.

    A KV head reads one set of components and one of tokens: |q| and the estimates are summed over the group, as the
    paper does. Keys are stored a second time, by component, so that only these components are read: as many bytes as
    the keys take, half of the cache. The paper adds the mean of all values for omitted tokens; here the output is plain
    attention over the chosen tokens, so interactions are exactly the index.
    """

    token_budget: int | None = parameter(
        None, "tokens to read, the recent among them; 128 if neither this nor sparsity is given", 1, kind=int
    )
    r: int = parameter(32, "components of the query, the largest, that estimate the scores", 1)
    recent: float = parameter(0.25, "share of the budget that goes to the most recent tokens", 0.0, 1.0)

    name: ClassVar[str] = "sparq"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "tokens by the largest components of the query"
    importance: ClassVar[str] = "softmax over the query's largest components"
    source: ClassVar[str] = "Ribar et al., 2024, arXiv:2312.04985"
    budgets: ClassVar[tuple[str, ...]] = ("token_budget",)

    def index_reads(self, shape: Shape, length: float) -> float:
        """``r`` components of every key."""
        return shape.kv_heads * min(shape.head_size, self.r) * length

    @property
    def fixed(self) -> int | None:
        return (self.token_budget or _TOKEN_BUDGET) if self.sparsity is None else None

    def new_state(self, cache: PagedCache) -> Tensor:
        from sparse_tasks.attention.kernels.key_components import new_key_components

        return new_key_components(cache.keys)

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        from sparse_tasks.attention.kernels.key_components import update_key_components

        if state is not None:
            update_key_components(state, keys, slots, impl=impl)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        """As in the base class; without a state, keys are read in full at every call."""
        import torch

        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.ops.components import estimated_weights

        check_queries(q, cache)
        budget, width = self.tokens_read(cache, impl)
        scores = estimated_weights(q, cache, self.r, self.softmax, components=state, impl=impl)

        def local() -> Tensor:
            age = cache.lengths[:, None] - 1 - torch.arange(scores.shape[2], device=q.device)
            return ((age >= 0) & (age < (budget * self.recent).ceil()[:, None]))[:, None]

        scores.masked_fill_(cache.once(("recent", self), local), float("inf"))
        tokens, counts = select_top(scores, budget[:, None], width=width, impl=impl)
        return PageIndex(tokens, counts, 1, cache.lengths)


METHODS.register("sparq", SparQ)
