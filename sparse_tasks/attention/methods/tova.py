"""TOVA: each step evicts the token that the last query attends to least (Oren et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS, StepMethod
from sparse_tasks.attention.methods.capacity import CapacityMethod

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import KeptBatch


@dataclass(frozen=True, kw_only=True)
class TOVA(StepMethod, CapacityMethod):
    """Keeps what the last query attends to; neither first nor recent tokens are protected.

    ``keep`` needs the last query of the prompt. Each KV head decides by the attention of its group; the paper takes the
    mean over all heads of a layer.
    """

    name: ClassVar[str] = "tova"
    place: ClassVar[int] = 4
    summary: ClassVar[str] = "tokens by the attention of the last query"
    importance: ClassVar[str] = "attention of the last query"
    cache: ClassVar[str] = "evicted after the prompt and at each step"
    source: ClassVar[str] = "Oren et al., 2024, arXiv:2401.06104"
    any_softmax: ClassVar[bool] = True

    @property
    def observes(self) -> int:
        return 1

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        from sparse_tasks.attention.kernels.window_scores import window_scores

        vertical = window_scores(q, k, 1, softmax=self.softmax, slashes=False, impl=impl).vertical
        return vertical.view(k.shape[1], -1, len(k)).sum(1)

    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        from sparse_tasks.attention.ops.eviction import drop_lowest

        return drop_lowest(seen, weights)


METHODS.register("tova", TOVA)
