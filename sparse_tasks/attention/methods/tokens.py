"""Base of decoding methods that read a number of single tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import DecodeMethod, Span

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache


@dataclass(frozen=True, kw_only=True)
class TokenMethod(DecodeMethod):
    """All KV heads read the same number of tokens. With ``sparsity`` it depends on each sequence's length."""

    unit: ClassVar[str] = "tokens"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    any_softmax: ClassVar[bool] = True
    recordable: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    @property
    @abstractmethod
    def fixed(self) -> int | None:
        """Tokens to read at any length; None if a share is read."""

    @property
    def share(self) -> float:
        """Share of the tokens to read, if their number is not fixed."""
        return 1 - (self.sparsity or 0.0)

    def read_span(self, prompt: int, cached: int) -> Span:
        if self.fixed is not None:
            return self.fixed, self.fixed
        target = self.share * cached
        return target - 0.5, target + 0.5

    def solve(self, length: int, density: float) -> dict[str, int]:
        from sparse_tasks.attention.kernels.page_budgets import page_budget

        return {"token_budget": page_budget(length, density, 1)}

    def tokens_read(self, cache: PagedCache, impl: str) -> tuple[Tensor, int]:
        """int32 ``[batch]``: tokens that each sequence reads; and the maximum."""
        import torch

        from sparse_tasks.attention.kernels.page_budgets import page_budget, page_budgets

        if self.fixed is not None:
            return torch.full_like(cache.lengths, self.fixed), self.fixed
        share = self.share
        tokens = cache.once(("tokens", share), lambda: page_budgets(cache.lengths, share, 1, impl=impl))
        return tokens, page_budget(cache.capacity, share, 1)
