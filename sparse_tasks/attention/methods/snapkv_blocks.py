"""SnapKV (Li et al. 2024) by blocks, the same in all heads and layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.shared_blocks import SharedBlocksMethod
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SnapKVBlocks(SharedBlocksMethod):
    """All heads of all layers keep the blocks that the last queries attend to most, by the maximum over heads."""

    window: int = parameter(64, "last queries of the prompt, whose attention is summed", 1)

    name: ClassVar[str] = "snapkv_blocks"
    place: ClassVar[int] = 11
    summary: ClassVar[str] = "blocks by the attention of the last queries, the same in all heads and layers"
    importance: ClassVar[str] = "attention of the last queries"
    source: ClassVar[str] = "Li et al., 2024, arXiv:2404.14469"
    any_softmax: ClassVar[bool] = True

    @property
    def observes(self) -> int:
        return self.window

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        from sparse_tasks.attention.kernels.window_scores import window_scores

        return window_scores(q, k, self.window, softmax=self.softmax, slashes=False, impl=impl).vertical


METHODS.register("snapkv_blocks", SnapKVBlocks)
