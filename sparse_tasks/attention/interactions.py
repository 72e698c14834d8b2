"""Numbers of query-key interactions and the cost of selecting them, from lengths alone (no torch)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Final

from sparse_tasks.core.shape import Shape

BLOCK: Final = 128
"""Positions in a block of the methods that take blocks under a threshold."""


def ceil_div(count: int, size: int) -> int:
    """``count / size``, rounded up."""
    return -(-count // size)


def whole_blocks(positions: range, size: int) -> tuple[int, int]:
    """The range of blocks of ``size`` that only contain such positions: first, and one past the last."""
    first = ceil_div(positions.start, size)
    return first, max(first, positions.stop // size)


def causal_count(n_q: int, n_k: int) -> int:
    """Interactions of dense causal attention: the lower triangle, for the last ``n_q`` of ``n_k`` positions."""
    return n_q * n_k - n_q * (n_q - 1) // 2


def seen_by(queries: int, size: int) -> int:
    """Interactions of the first ``queries`` positions if each sees ``size`` keys, or all if there are fewer."""
    full = min(size, queries)
    return full * (full + 1) // 2 + (queries - full) * full


def nearest(count: Callable[[int], float], target: float, least: int, most: int) -> int:
    """The number whose (increasing) count is nearest to the target; the smaller one in a tie."""
    number = bisect.bisect_left(range(least, most), target, key=count) + least
    under = max(least, number - 1)
    return under if abs(count(under) - target) <= abs(count(number) - target) else number


def nearest_size(queries: int, target: float) -> int:
    """The size, at least 1, whose ``seen_by`` is nearest to the target; the smaller one in a tie."""
    return nearest(lambda size: seen_by(queries, size), target, 1, queries)


def window_density(length: float, keys: float) -> float:
    """The density if each query of a prompt sees ``keys`` keys, or all if there are fewer."""
    seen = min(keys, length)
    return (seen * (seen + 1) / 2 + (length - seen) * seen) / (length * (length + 1) / 2)


def ranking_flops(entries: float) -> float:
    """Operations to rank this many entries: n log2 n."""
    return entries * math.log2(max(1.0, entries))


def window_flops(shape: Shape, queries: float, keys: float) -> float:
    """FLOPs of the scores of some queries over some keys and their softmax, all query heads."""
    return shape.query_heads * (2 * shape.head_size + 5) * queries * keys


def block_ranking_flops(shape: Shape, length: float, block: float) -> float:
    """Operations to rank the key blocks of each query block, all query heads."""
    count = length / block
    return shape.query_heads * count * ranking_flops(count)


def pooled_flops(shape: Shape, length: float, block: float) -> float:
    """FLOPs of the means of blocks and of their products, all heads."""
    means = (shape.query_heads + shape.kv_heads) * length * shape.head_size
    return means + shape.query_heads * 2 * shape.head_size * (length / block) ** 2
