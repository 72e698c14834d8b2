"""Tri-shape: StreamingLLM, but the last queries of the prompt see everything (Li et al. 2024, section 3)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import causal_count, nearest_size, seen_by
from sparse_tasks.attention.method import METHODS, Span
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import LineIndex


@dataclass(frozen=True, kw_only=True)
class TriShape(StreamingLLM):
    """Sinks and a window, and below them a dense band: the last queries, which determine the answer, see everything.

    The last queries are those of the whole prompt. They are selected in a call of their own; a call of ``select`` with
    queries of both kinds returns no index, so all of them see everything. With ``sparsity`` there are fewer if a prompt
    is so short that they would take more than half of the budget.
    """

    last: int = parameter(100, "last queries of the prompt, which see everything", 0)

    name: ClassVar[str] = "tri_shape"
    place: ClassVar[int] = 5
    summary: ClassVar[str] = "first tokens, a window, and last queries that see everything"
    unit: ClassVar[str] = "sinks, a window and dense queries"
    source: ClassVar[str] = "Li et al., 2024, arXiv:2412.10319"
    any_softmax: ClassVar[bool] = True

    @property
    def unshared(self) -> str | None:
        return "the last queries of a prompt see more than those of a longer one that begins alike"

    def unseen(self, prompt: int, position: int) -> range:
        return range(0)  # its last queries see everything

    def density_span(self, length: int) -> Span:
        least, most = super().density_span(length)
        return least, most if self.sparsity is not None else most + 2 * self.last / length

    def solve(self, length: int, density: float) -> dict[str, int]:
        target = density * causal_count(length, length)
        # The last queries, expressed as a number of keys.
        most = bisect.bisect_right(range(length + 1), target / 2, key=lambda last: seen_by(length, last)) - 1
        last = min(self.last, most)
        size = nearest_size(length - last, target - seen_by(length, last))
        return {"window": max(1, size - self.sinks), "last": last}

    def stretches(self, n_q: int, n_k: int, length: int) -> list[int]:
        last = min(n_q, max(0, n_k - (length - self.at(length).last)))
        return [count for count in (n_q - last, last) if count > 0]

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence

        check_sequence(q, k)
        length = len(k) if length is None else length
        if len(k) > length - self.at(length).last:
            return None
        return super().select(q, k, length=length, impl=impl)


METHODS.register("tri_shape", TriShape)
