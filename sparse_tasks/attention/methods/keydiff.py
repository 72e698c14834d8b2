"""KeyDiff: the tokens whose keys are least like the others (Park et al. 2025, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KeyDiff(CapacityMethod):
    """Keys that differ in direction from the mean direction tend to get much attention.

    It does not use queries, and neither first nor last tokens are protected. The paper evicts block by block as a
    prompt is read; here the whole prompt is seen before anything is evicted.
    """

    name: ClassVar[str] = "keydiff"
    place: ClassVar[int] = 7
    summary: ClassVar[str] = "tokens by the direction of their keys, the rarest first"
    importance: ClassVar[str] = "keys only"
    source: ClassVar[str] = "Park et al., 2025, arXiv:2504.15364"
    any_softmax: ClassVar[bool] = True
    reads_queries: ClassVar[bool] = False

    def index_flops(self, shape: Shape, length: float) -> float:
        """Norms of the keys, their mean, the products with it, and a ranking."""
        return shape.kv_heads * (6 * length * shape.head_size + ranking_flops(length))

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """Negative cosines with the mean direction, times its length, which is the same for all tokens of a head."""
        from torch.nn.functional import normalize

        direction = normalize(k.float(), dim=2)
        return -(direction * direction.mean(0)).sum(2).T.contiguous()


METHODS.register("keydiff", KeyDiff)
