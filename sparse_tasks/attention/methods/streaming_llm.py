"""StreamingLLM: the first tokens and the last ones (Xiao et al. 2023, section 3.2), as a pattern of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import causal_count, nearest_size, window_density
from sparse_tasks.attention.method import METHODS, PrefillMethod, Span
from sparse_tasks.attention.methods.lines import BLOCK_Q, TILE_KEYS, UNIT
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import LineIndex

_WINDOW: Final = 1024  # if neither a window nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(PrefillMethod):
    """Each query sees the first tokens, and the last ones up to itself, regardless of content: an "A-shape".

    The window is rounded up to tiles, so more is computed than the window. The cache is kept, and tokens after the
    prompt see all of it.
    """

    sinks: int = parameter(4, "first tokens that are always seen", 0)
    window: int | None = parameter(
        None, "last tokens that a query sees, its own included; 1024 if neither this nor sparsity is given", 1, kind=int
    )

    name: ClassVar[str] = "streaming_llm"
    place: ClassVar[int] = 4
    summary: ClassVar[str] = "first tokens and a window of the last ones"
    unit: ClassVar[str] = "sinks and a window"
    importance: ClassVar[str] = "fixed"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Xiao et al., 2023, arXiv:2309.17453"
    any_softmax: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("window",)

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_lines", {}

    @property
    def unshared(self) -> str | None:
        return super().unshared if self.sparsity is not None else None  # else the window does not depend on the prompt

    def density_span(self, length: int) -> Span:
        if self.sparsity is None:
            keys = self.sinks + (self.window or _WINDOW)
            # With a cached prefix only the last queries count, which see as much of more keys.
            return min(1.0, keys / length), window_density(length, keys + TILE_KEYS)
        density = 1 - self.sparsity
        most = max(density + 1 / length, window_density(length, self.sinks + 1)) + 2 * TILE_KEYS / length
        return density - 1 / length, most

    def unseen(self, prompt: int, position: int) -> range:
        last = position + 1 - (self.at(prompt).window or _WINDOW) - TILE_KEYS
        return range(self.sinks, max(self.sinks, last))

    def index_flops(self, shape: Shape, length: float) -> float:
        return 0.0  # no scores are computed

    def solve(self, length: int, density: float) -> dict[str, int]:
        size = nearest_size(length, density * causal_count(length, length))
        return {"window": max(1, size - self.sinks)}

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.window import window_index

        check_sequence(q, k)
        n_k = len(k)
        window = self.at(n_k if length is None else length).window or _WINDOW
        if self.sinks + window >= n_k:
            return None
        return window_index(k.device, self.sinks, window, BLOCK_Q, UNIT, len(q), n_k, impl)


METHODS.register("streaming_llm", StreamingLLM)
