"""Random eviction: a lower baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomEvict(CapacityMethod):
    """Each KV head keeps random tokens of the prompt, and the first and last ones.

    A draw depends only on the seed, the head and the position. The first tokens take at most a quarter of the
    capacity, the last ones half.
    """

    sinks: int = parameter(4, "first tokens that always stay", 0)
    recent: int = parameter(64, "last tokens of the prompt that always stay", 0)
    seed: int = parameter(0, "another seed keeps other tokens", 0)

    name: ClassVar[str] = "random_evict"
    place: ClassVar[int] = 2
    summary: ClassVar[str] = "control: tokens at random"
    control: ClassVar[bool] = True
    importance: ClassVar[str] = "random"
    source: ClassVar[str] = "Zaheer et al., 2020, arXiv:2007.14062"
    any_softmax: ClassVar[bool] = True
    reads_queries: ClassVar[bool] = False

    def index_flops(self, shape: Shape, length: float) -> float:
        """A draw for each token, and a ranking."""
        return shape.kv_heads * (length + ranking_flops(length))

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 4), min(self.recent, capacity // 2)

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        import torch

        from sparse_tasks.attention.ops.draws import draws

        head = torch.arange(k.shape[1], device=k.device)[:, None] + self.layer.rank * k.shape[1]
        return draws(self.seed, head, torch.arange(len(k), device=k.device))


METHODS.register("random_evict", RandomEvict)
