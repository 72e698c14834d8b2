"""XAttention: the fewest key blocks that hold a share of what antidiagonals estimate (Xu et al. 2025, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import BLOCK, block_ranking_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.adaptive import AdaptiveBlocks
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import BlockIndex

_THRESHOLD: Final = 0.9  # of Xu et al.


@dataclass(frozen=True, kw_only=True)
class XAttention(AdaptiveBlocks):
    """Query-key products along every ``stride``-th antidiagonal estimate the attention between blocks of 128.

    The first key block and the one on the diagonal are always read, and count towards the threshold.

    Adaptive: the count follows the content. With ``sparsity`` every call, for at most 8,192 queries, finds the
    threshold at which its heads compute ``1 - sparsity`` on average. If the first block and the diagonal alone exceed
    that, in short prompts, the first block is read only if its score is among the highest.
    """

    threshold: float | None = parameter(
        None, "share of the estimated attention to keep; .9 if neither this nor sparsity is given", 0.0, 1.0, kind=float
    )
    stride: int = parameter(8, "distance between antidiagonals; it divides 128", 1, BLOCK)

    name: ClassVar[str] = "xattention"
    place: ClassVar[int] = 6
    summary: ClassVar[str] = "key blocks by sums along antidiagonals"
    unit: ClassVar[str] = "blocks"
    importance: ClassVar[str] = "softmax of sums along antidiagonals"
    source: ClassVar[str] = "Xu et al., 2025, arXiv:2503.16428"
    budgets: ClassVar[tuple[str, ...]] = ("threshold",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if BLOCK % self.stride:
            raise UsageError(f"{self.name}.stride", self.stride, f"does not divide {BLOCK}; take a power of two")

    def index_flops(self, shape: Shape, length: float) -> float:
        """Antidiagonals ``stride`` apart and their softmax, and a ranking of the blocks."""
        products = 2 * length**2 * shape.head_size / self.stride + 5 * (length / self.stride) ** 2
        return shape.query_heads * products + block_ranking_flops(shape, length, BLOCK)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.antidiagonal import antidiagonal_scores
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.mass import mass_from
        from sparse_tasks.attention.ops.coverage import always_read, blocks_that_hold, room_for_first

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        threshold = _THRESHOLD if self.threshold is None else self.threshold
        density = None if self.sparsity is None else 1 - self.sparsity
        if n_k <= BLOCK or (threshold if density is None else density) == 1:
            return None
        scores = antidiagonal_scores(q, k, block=BLOCK, stride=self.stride, impl=impl)
        always = always_read(q.device, n_q, n_k, BLOCK, room_for_first(n_q, n_k, density))
        mass = mass_from(scores, always, impl=impl)
        return blocks_that_hold(mass, n_q=n_q, n_k=n_k, share=threshold, density=density, impl=impl)


METHODS.register("xattention", XAttention)
