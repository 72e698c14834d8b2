"""Base of methods in which all heads of all layers keep the same blocks of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.method import ONLY, SharedMethod, Span
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SharedBlocksMethod(SharedMethod, CapacityMethod):
    """Keeps the blocks with the highest scores, ``capacity`` tokens in total: the same in all heads of all layers.

    A block's score is its tokens' maximum over heads. If there are few blocks, the first ones take at most half, and
    the last ones at most half of the rest; the very last block is always kept.
    """

    block: int = parameter(32, "tokens in a block; to be freed, a multiple of the size of vLLM's blocks", 1)
    sinks: int = parameter(4, "first tokens, rounded up to blocks, that always stay", 0)
    recent: int = parameter(128, "last tokens of the prompt, rounded up to blocks, that always stay", 0)

    unit: ClassVar[str] = "blocks of all heads"
    budget: ClassVar[str] = "one for all heads and layers"

    def blocks(self, length: int, n_k: int) -> tuple[int, int]:
        """Numbers of blocks and tokens to keep out of ``n_k`` tokens, with a budget solved for ``length``."""
        every = ceil_div(n_k, self.block)
        last = n_k - (every - 1) * self.block  # tokens of the last block, which is kept
        count = 1 + min(every - 1, max(0, round((self.tokens(length, n_k, ONLY) - last) / self.block)))
        return count, (count - 1) * self.block + last

    def fixed(self, capacity: int) -> tuple[int, int]:
        """The number of first and of last blocks that are always kept, out of this many."""
        first = min(ceil_div(self.sinks, self.block), capacity // 2)
        return first, max(1, min(ceil_div(self.recent, self.block), (capacity - first) // 2))

    def read_span(self, prompt: int, cached: int) -> Span:
        # Limited by the budget, too, which whole blocks do not meet exactly.
        kept = self.blocks(prompt, prompt)[1], min(prompt, self.tokens(prompt, prompt, ONLY))
        return min(kept) + cached - prompt - 1, max(kept) + cached - prompt + 1

    def rank(self, q: Tensor, k: Tensor, *, v: Tensor | None = None, impl: str = "auto") -> Tensor:
        """Scores of the blocks, the sums of their tokens', fp32 ``[heads, blocks]``."""
        from torch.nn.functional import pad

        scores = self.scores(q, k, impl=impl)
        return pad(scores, (0, -scores.shape[1] % self.block)).unflatten(1, (-1, self.block)).sum(2)

    def agree(self, ranks: Sequence[Tensor], n_k: int, *, length: int | None = None, impl: str = "auto") -> Tensor:
        import torch

        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.eviction import protect

        count, tokens = self.blocks(n_k if length is None else length, n_k)
        scores = torch.cat(list(ranks)).amax(0, keepdim=True)
        (blocks,), _ = select_top(protect(scores, *self.fixed(count)), count, impl=impl)
        within = torch.arange(self.block, dtype=torch.int32, device=blocks.device)
        return (blocks[:, None] * self.block + within).flatten()[:tokens]  # without positions past the last block's end
