"""LessIsMore: a few layers select tokens for all heads of the others (Yang et al. 2025, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.handing import FirstLayers
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache


@dataclass(frozen=True, kw_only=True)
class LessIsMore(FirstLayers):
    """All heads read the same tokens: the best of each head, then the next best of each, and the recent ones.

    Heads are KV heads, by the attention of their groups.
    """

    recent: float = parameter(0.25, "share of the budget that goes to the most recent tokens", 0.0, 1.0)

    name: ClassVar[str] = "less_is_more"
    place: ClassVar[int] = 5
    summary: ClassVar[str] = "tokens that a few layers select, for all heads together"
    importance: ClassVar[str] = "true attention in a few layers, ranked over heads and handed on"
    source: ClassVar[str] = "Yang et al., 2025, arXiv:2508.07101"

    def rank(self, mass: Tensor, age: Tensor, cache: PagedCache, impl: str) -> Tensor:
        import torch

        order = mass.argsort(dim=2, descending=True, stable=True)
        place = torch.empty_like(order).scatter_(
            2, order, torch.arange(mass.shape[2], device=mass.device).expand_as(order)
        )
        best = -place.amin(1, keepdim=True).float().expand_as(mass)
        budget, _ = self.pages_read(cache, impl)
        window = budget * self.recent if isinstance(budget, int) else (budget * self.recent)[..., None]
        return best.masked_fill((age >= 0) & (age < window), float("inf")).masked_fill(age < 0, float("-inf"))


METHODS.register("less_is_more", LessIsMore)
