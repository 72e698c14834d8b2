"""The cheapest baseline for eviction: keep the first and the last tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS, ONLY
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WindowEvict(CapacityMethod):
    """Keeps the first tokens of the prompt, at most half of the capacity, and its last ones."""

    sinks: int = parameter(4, "first tokens that always stay", 0)

    name: ClassVar[str] = "window_evict"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "control: first tokens and the last ones of the prompt"
    unit: ClassVar[str] = "sinks and a window"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "fixed"
    source: ClassVar[str] = "Xiao et al., 2023, arXiv:2309.17453"
    any_softmax: ClassVar[bool] = True
    reads_queries: ClassVar[bool] = False

    def index_flops(self, shape: Shape, length: float) -> float:
        return 0.0  # no scores are computed

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 2), 0

    def unseen(self, prompt: int, position: int) -> range:
        capacity = self.tokens(prompt, prompt, ONLY)
        first, _ = self.fixed(capacity)
        return range(first, max(first, prompt - capacity + first))

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """Positions, so later tokens score higher."""
        import torch

        return torch.arange(len(k), dtype=torch.float32, device=k.device).repeat(k.shape[1], 1)


METHODS.register("window_evict", WindowEvict)
