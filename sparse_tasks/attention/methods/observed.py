"""Base of SnapKV and related methods: the last queries of a prompt rank its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ObservedMethod(CapacityMethod):
    """Tokens by the attention of the last queries, smoothed along the keys.

    ``keep`` needs the last ``window`` queries, or all if there are fewer. In short budgets the first tokens take at
    most a quarter and the recent ones at most half, so content always matters.
    """

    window: int = parameter(64, "last queries of the prompt, whose attention is summed; the paper of the tasks: 256", 1)
    kernel: int = parameter(21, "keys, an odd number, over which the attention is averaged", 1)
    sinks: int = parameter(4, "first tokens that always stay", 0)
    recent: int = parameter(128, "last tokens of the prompt that always stay", 0)

    importance: ClassVar[str] = "attention of the last queries, averaged over neighbouring keys"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise UsageError(f"{self.name}.kernel", self.kernel, "has to be odd: a token stands in the middle")

    @property
    def observes(self) -> int:
        return self.window

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 4), min(self.recent, capacity // 2)

    def observed(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """fp32 ``[kv_heads, group, n_k]``: smoothed attention, padded with 0 at both ends of the prompt."""
        from torch.nn.functional import avg_pool1d

        from sparse_tasks.attention.kernels.window_scores import window_scores

        scores = window_scores(q, k, self.window, softmax=self.softmax, slashes=False, impl=impl).vertical
        smooth = avg_pool1d(scores[:, None], self.kernel, stride=1, padding=self.kernel // 2)
        return smooth.view(k.shape[1], -1, len(k))
