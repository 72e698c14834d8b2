"""FlexPrefill: for each head a pattern and a budget of its own, by what the last queries see (Lai et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, ceil_div
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.kernels.pooling import mean_pool
from sparse_tasks.attention.kernels.window_scores import window_scores
from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.attention.methods.coverage import BLOCK, QUERIES, blocks_that_hold, room_for_first
from sparse_tasks.attention.methods.pooled import mass_from
from sparse_tasks.core.parameters import parameter

__all__ = ["FlexPrefill"]

_GAMMA: Final = 0.9  # of Lai et al.


@dataclass(frozen=True, kw_only=True)
class FlexPrefill(PrefillMethod):
    """A head is query-aware or vertical-slash, and takes as many blocks of 128 as hold ``gamma`` of its attention.

    The last 128 queries of a call say what is seen of each key block. Where their mean, by the means of the key blocks,
    says much the same (the root of the Jensen-Shannon divergence is below ``tau``), means are trusted: the head is
    query-aware, and each query block takes the fewest key blocks that hold ``gamma`` of its softmax of means. The paper
    takes these over all query blocks together; row by row, no query block is left without. Other heads take the fewest
    verticals and the fewest slashes, all a block wide, that hold ``gamma`` of what the last 128 queries see by key and
    by distance. The first key block and the diagonal are always read, and count.

    Adaptive: the count follows the content. With ``sparsity`` every call, for 8,192 queries at most, finds the
    ``gamma`` under which its heads compute ``1 - sparsity`` on average, and ``min_budget`` does not apply; of the last
    line there may be a part. Where the first block and the diagonal alone would be more than that, in short prompts,
    the first block is read only where it is among the blocks that matter most.
    """

    gamma: float | None = parameter(
        None,
        "share of the estimated attention to keep; .9 if neither this nor sparsity is given",
        0.0,
        1.0,
        kind=float,
    )
    tau: float = parameter(0.1, "distance below which a head is query-aware; 0: none is", 0.0, 1.0)
    min_budget: int = parameter(
        512, "tokens that verticals, slashes, and query blocks of query-aware heads take at least, in whole blocks", 0
    )

    name: ClassVar[str] = "flexprefill"
    summary: ClassVar[str] = "a pattern for each head, and as many blocks as it needs"
    unit: ClassVar[str] = "blocks, or verticals and slashes of blocks"
    importance: ClassVar[str] = "attention of the last queries, or mean-pooled queries and keys"
    budget: ClassVar[str] = "threshold, adaptive across heads"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Lai et al., 2025, arXiv:2502.20766"
    exact: ClassVar[bool] = False
    budgets: ClassVar[tuple[str, ...]] = ("gamma",)

    @property
    def queries_at_once(self) -> int:
        return QUERIES

    @property
    def observes(self) -> int:
        return BLOCK

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        gamma = _GAMMA if self.gamma is None else self.gamma
        density = None if self.sparsity is None else 1 - self.sparsity
        least = ceil_div(self.min_budget, BLOCK) if density is None else 0
        if n_k <= BLOCK * max(1, least) or (gamma if density is None else density) == 1:
            return None
        first = room_for_first(n_q, n_k, density)
        vertical, slash = window_scores(q, k, BLOCK, impl=impl)
        if slash is None:
            raise RuntimeError("window_scores gave no sums by distance")
        verticals, slashes = _by_block(vertical), _by_block(slash)
        mass = _mass_of_lines(verticals, slashes, BlockIndex.rows(n_q, n_k, BLOCK), first, least)
        if self.tau > 0:
            k_pool = mean_pool(k, BLOCK, impl=impl)
            expected = _products(mean_pool(q[-BLOCK:], BLOCK, impl=impl), k_pool).softmax(2)
            aware = _distance(verticals, expected[:, 0]) < self.tau
            products = _products(mean_pool(q, BLOCK, offset=n_k - n_q, impl=impl), k_pool)
            row, column = _grid(products)
            weights = products.masked_fill(column > row, float("-inf")).softmax(2)
            own = mass_from(weights, (column == row) | ((column == 0) & first), least)
            mass = torch.where(aware[:, None, None], own, mass)
        return blocks_that_hold(mass, n_q=n_q, n_k=n_k, share=gamma, density=density, impl=impl)


def _by_block(scores: Tensor) -> Tensor:
    """fp32 ``[heads, blocks]``, which sums to 1: sums of ``[heads, n_k]`` over blocks."""
    padded = torch.nn.functional.pad(scores, (0, -scores.shape[1] % BLOCK))
    sums = padded.unflatten(1, (-1, BLOCK)).sum(2)
    return sums / sums.sum(1, keepdim=True)


def _grid(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of query blocks ``[rows, 1]``, the last of which meets the last key block, and of key blocks."""
    rows, columns = scores.shape[1:]
    column = torch.arange(columns, device=scores.device)
    return column[columns - rows :, None], column


def _mass_of_lines(verticals: Tensor, slashes: Tensor, rows: int, first: bool, least: int) -> Tensor:
    """``mass_from`` of a block, that of its vertical or of its slash: fp32 ``[heads, rows, columns]``."""
    number = torch.arange(verticals.shape[1], device=verticals.device)
    by_key = mass_from(verticals, (number == 0) & first, least)
    by_distance = mass_from(slashes, number == 0, least)
    before = number[len(number) - rows :, None] - number  # how many blocks a key block lies before its query block
    return torch.maximum(by_key[:, None], by_distance[:, before.clamp_min(0)])


def _products(q_pool: Tensor, k_pool: Tensor) -> Tensor:
    """fp32 ``[heads, rows, columns]``: scaled products of pooled queries and keys, ``[heads, blocks, head_size]``."""
    keys = k_pool.float().repeat_interleave(len(q_pool) // len(k_pool), 0)
    return q_pool.float() @ keys.mT * q_pool.shape[2] ** -0.5


def _distance(p: Tensor, q: Tensor) -> Tensor:
    """The root of the Jensen-Shannon divergence, in nats, of distributions ``[heads, blocks]``."""
    middle = (p + q) / 2
    divergence = sum((x.xlogy(x) - x.xlogy(middle)).sum(1) for x in (p, q)) / 2
    return divergence.clamp_min(0).sqrt()


METHODS.register("flexprefill", FlexPrefill)
