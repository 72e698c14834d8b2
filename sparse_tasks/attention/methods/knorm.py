"""KNorm: the tokens whose keys are shortest (Devoto et al. 2024, section 4)."""

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
class KNorm(CapacityMethod):
    """Keys of low L2 norm tend to get much attention; ``keep`` does not use queries.

    The first tokens, at most half of the capacity, are always kept.
    """

    sinks: int = parameter(4, "first tokens that always stay", 0)

    name: ClassVar[str] = "knorm"
    place: ClassVar[int] = 6
    summary: ClassVar[str] = "tokens by the norm of their keys, the lowest first"
    importance: ClassVar[str] = "keys only"
    source: ClassVar[str] = "Devoto et al., 2024, arXiv:2406.11430"
    any_softmax: ClassVar[bool] = True
    reads_queries: ClassVar[bool] = False

    def index_flops(self, shape: Shape, length: float) -> float:
        """Norms of the keys, and a ranking."""
        return shape.kv_heads * (2 * length * shape.head_size + ranking_flops(length))

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 2), 0

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return -k.float().norm(dim=2).T.contiguous()


METHODS.register("knorm", KNorm)
