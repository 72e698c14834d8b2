"""Base of prefill methods that take verticals and slashes by the attention of some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import ranking_flops, window_density, window_flops
from sparse_tasks.attention.method import PrefillMethod, Span
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import LineIndex

BLOCK_Q: Final = 128
"""Queries in the tiles that slashes are rounded up to."""

UNIT: Final = 64
"""Keys in these tiles."""

TILE_KEYS: Final = BLOCK_Q + UNIT - 1
"""Keys that tiles add, at most, to a slash or to the window of a query."""

_LINES: Final = 1024  # of either kind, if neither a number nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class LineMethod(PrefillMethod):
    """The attention of observed queries ranks verticals and slashes.

    The first tokens and the shortest distances are always seen, and count. Slashes are rounded up to tiles, so more
    than the lines is computed; the closer they are, the less is added.

    With ``sparsity`` every call finds the numbers of lines, the same for all its heads, that meet it on average,
    including what tiles add: as many verticals as slashes, and verticals for the rest. In prompts so short that the
    shortest distances would take more than half of the budget, only the query itself is always seen: there, verticals
    matter more than neighbours.
    """

    verticals: int | None = parameter(
        None, "keys that all later queries see; 1024 if neither this nor sparsity is given", 1, kind=int
    )
    slashes: int | None = parameter(
        None, "distances at which queries see keys; 1024 if neither this nor sparsity is given", 1, kind=int
    )
    sinks: int = parameter(4, "first tokens that are always seen", 0)
    recent: int = parameter(64, "shortest distances that are always seen", 1)

    unit: ClassVar[str] = "verticals and slashes"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    exact: ClassVar[bool] = False
    budgets: ClassVar[tuple[str, ...]] = ("verticals", "slashes")

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_lines", {}

    @property
    def _lines(self) -> tuple[int, int]:
        """Verticals and slashes without a sparsity, including those always seen."""
        return max(self.verticals or _LINES, self.sinks), max(self.slashes or _LINES, self.recent)

    def index_flops(self, shape: Shape, length: float) -> float:
        """Attention of the queries observed, two rankings, and the merging of lines into tiles of 64.

        With a sparsity there are ``density * length`` lines, since a line crosses half of the rows on average.
        """
        if self.sparsity is None:
            lines = sum(min(length, number or _LINES) for number in (self.verticals, self.slashes))
        else:
            lines = (1 - self.sparsity) * length
        seen = window_flops(shape, min(length, self.observes), length)
        return seen + shape.query_heads * (2 * ranking_flops(length) + length / UNIT * lines)

    def density_span(self, length: int) -> Span:
        if self.sparsity is None:
            verticals, slashes = self._lines
            if max(verticals, slashes) >= length:
                return 1.0, 1.0
            # The first tokens and the shortest distances are always seen; a single slash takes tiles of 192 keys.
            least = window_density(length, min(self.recent, slashes))
            return least, window_density(length, verticals + (TILE_KEYS + 1) * slashes)
        density = 1 - self.sparsity
        # Its lists fit three times what lines of average length need; all but short lines fill the density.
        return density / 2 - 4 / length, density + 2 * (BLOCK_Q + 2 + self.sinks) / length

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        import torch

        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.kernels.window_scores import window_scores
        from sparse_tasks.attention.ops.lines import line_index, lines_for_density

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        verticals, slashes = self._lines
        if self.sparsity == 0 or (self.sparsity is None and max(verticals, slashes) >= n_k):
            return None
        vertical, slash = window_scores(q, k, self.observes, softmax=self.softmax, impl=impl)
        if slash is None:
            raise RuntimeError("window_scores gave no sums by distance")
        both = torch.stack((vertical, slash))
        both[0, :, : self.sinks] = both[1, :, : self.recent] = float("inf")
        if self.sparsity is None:
            most = max(verticals, slashes)
            # Filled, since a copy from the host would synchronise.
            numbers = torch.cat([torch.full((1,), n, dtype=torch.int32, device=q.device) for n in (verticals, slashes)])
        else:
            # Lists fit this many, three times what lines of average length need. If all were shorter than a third of
            # the average, less than the target would be seen.
            most = self.sinks + self.recent + int(1.5 * (1 - self.sparsity) * n_k)
            columns, distances = lines_for_density(
                both[0],
                both[1],
                n_q=n_q,
                density=1 - self.sparsity,
                block_q=BLOCK_Q,
                unit=UNIT,
                fewest=min(self.recent, n_k),
                impl=impl,
            )
            numbers = torch.stack((columns.clamp_min(self.sinks), distances))
        chosen, counts = select_top(both, numbers[:, None], width=most, impl=impl)
        return line_index(
            chosen[0], counts[0], chosen[1], counts[1], block_q=BLOCK_Q, unit=UNIT, n_q=n_q, n_k=n_k, impl=impl
        )
