"""KNorm (Devoto et al. 2024) by blocks, the same in all heads and layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.shared_blocks import SharedBlocksMethod
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KNormBlocks(SharedBlocksMethod):
    """All heads of all layers keep the blocks with the shortest keys; it does not use queries."""

    name: ClassVar[str] = "knorm_blocks"
    place: ClassVar[int] = 12
    summary: ClassVar[str] = "blocks by the norms of their keys, the same in all heads and layers"
    importance: ClassVar[str] = "keys only"
    source: ClassVar[str] = "Devoto et al., 2024, arXiv:2406.11430"
    any_softmax: ClassVar[bool] = True
    reads_queries: ClassVar[bool] = False

    def index_flops(self, shape: Shape, length: float) -> float:
        """Norms of the keys, and a ranking."""
        return shape.kv_heads * (2 * length * shape.head_size + ranking_flops(length))

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """Negative norms divided by the head's mean norm."""
        norms = k.float().norm(dim=2).T
        return -norms / norms.mean(1, keepdim=True)


METHODS.register("knorm_blocks", KNormBlocks)
