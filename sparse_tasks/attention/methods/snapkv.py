"""SnapKV: the tokens that the last queries of the prompt attend to (Li et al. 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.observed import ObservedMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SnapKV(ObservedMethod):
    """Each KV head keeps the same number of tokens, those with the highest mean attention of its group."""

    name: ClassVar[str] = "snapkv"
    place: ClassVar[int] = 1
    summary: ClassVar[str] = "tokens by the attention of the last queries"
    source: ClassVar[str] = "Li et al., 2024, arXiv:2404.14469"
    any_softmax: ClassVar[bool] = True

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return self.observed(q, k, impl=impl).mean(1)


METHODS.register("snapkv", SnapKV)
