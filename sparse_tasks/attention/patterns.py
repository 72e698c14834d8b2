"""Named predicates over (head, query position, key position).

One predicate gives the mask, the reference (``reference.py``), the picture (``picture.py``) and the exact count of
interactions. Positions are absolute: the ``n_q`` queries are the last of ``n_k`` positions, so query row ``i`` is at
position ``n_k - n_q + i``. Every mask and every count is causal: a key after its query is never seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import causal_count

_CELLS = 1 << 24  # cells of a mask counted at once: 16 MB of booleans


class Pattern(ABC):
    """Which keys a query sees. ``heads`` is 1 if all heads see the same."""

    heads: int = 1

    @abstractmethod
    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query sees a key, ignoring causality.

        Args:
            head: int64, below ``heads``.
            query: int64, absolute positions.
            key: int64, absolute positions. The three broadcast.

        Returns:
            bool, of the shape that the three broadcast to.
        """

    def of_head(self, head: int, query: Tensor, n_k: int) -> Tensor:
        """Bool ``[queries, n_k]``: ``sees`` for one head and the first ``n_k`` keys; tiled patterns have a faster way.

        Args:
            head: Below ``heads``.
            query: int64 ``[queries]``, absolute positions.
            n_k: Keys.
        """
        key = torch.arange(n_k, device=query.device)
        seen = self.sees(torch.tensor(head, device=query.device), query[:, None], key)
        return seen.expand(len(query), n_k)

    def mask(self, n_q: int, n_k: int, device: torch.device | str = "cpu") -> Tensor:
        """Bool ``[heads, n_q, n_k]``: True where a query sees a key."""
        return self._rows(torch.arange(n_k - n_q, n_k, device=device), n_k)

    def count(self, n_q: int, n_k: int, device: torch.device | str = "cpu") -> Tensor:
        """int64 ``[heads]``: the exact number of interactions, counted in slices to bound memory."""
        rows = max(1, _CELLS // (self.heads * n_k))
        total = torch.zeros(self.heads, dtype=torch.int64, device=device)
        for start in range(n_k - n_q, n_k, rows):
            queries = torch.arange(start, min(start + rows, n_k), device=device)
            total += self._rows(queries, n_k).sum((1, 2))
        return total

    def density(self, n_q: int, n_k: int, device: torch.device | str = "cpu") -> Tensor:
        """float64 ``[heads]``: interactions over those of dense causal attention."""
        return self.count(n_q, n_k, device).double() / causal_count(n_q, n_k)

    def _rows(self, queries: Tensor, n_k: int) -> Tensor:
        head = torch.arange(self.heads, device=queries.device)[:, None, None]
        query = queries[None, :, None]
        key = torch.arange(n_k, device=queries.device)[None, None, :]
        return self.sees(head, query, key).expand(self.heads, len(queries), n_k) & (key <= query)

    def __or__(self, other: Pattern) -> Pattern:
        return _Either(self, other)


@dataclass(frozen=True)
class Everything(Pattern):
    """All keys: dense attention."""

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= 0) & (query >= 0)


@dataclass(frozen=True)
class Columns(Pattern):
    """Verticals: keys that every query sees. ``kept`` is bool ``[heads, n_k]``."""

    kept: Tensor

    @property
    def heads(self) -> int:  # type: ignore[override]
        return int(self.kept.shape[0])

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.kept[head, key]


@dataclass(frozen=True)
class EveryQuery(Pattern):
    """All keys for the queries at multiples of ``every``, and for the one at ``first``."""

    every: int
    first: int

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((query % self.every == 0) | (query == self.first)) & (key >= 0)


@dataclass(frozen=True)
class Blocks(Pattern):
    """Tiles of ``block_q`` by ``block_k`` positions, both grids beginning at position 0.

    Attributes:
        kept: bool ``[heads, rows, columns]``.
        first_row: Number of the query block of row 0 of ``kept``.
    """

    kept: Tensor
    block_q: int
    block_k: int
    first_row: int = 0

    @property
    def heads(self) -> int:  # type: ignore[override]
        return int(self.kept.shape[0])

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.kept[head, query // self.block_q - self.first_row, key // self.block_k]

    def of_head(self, head: int, query: Tensor, n_k: int) -> Tensor:
        rows = self.kept[head].index_select(0, query // self.block_q - self.first_row)
        return rows.repeat_interleave(self.block_k, 1)[:, :n_k]

    def count(self, n_q: int, n_k: int, device: torch.device | str = "cpu") -> Tensor:
        kept = self.kept.to(device)
        row = torch.arange(kept.shape[1], device=device)[:, None] + self.first_row
        column = torch.arange(kept.shape[2], device=device)
        return (kept * block_interactions(row, column, self.block_q, self.block_k, n_q, n_k)).sum((1, 2))


def block_interactions(row: Tensor, column: Tensor, block_q: int, block_k: int, n_q: int, n_k: int) -> Tensor:
    """Causal interactions of query block ``row`` with key block ``column``, in closed form.

    Args:
        row: int64, numbers of query blocks, on the grid that begins at position 0.
        column: int64, numbers of key blocks, broadcast against ``row``.
        block_q: Positions in a query block.
        block_k: Positions in a key block.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.

    Returns:
        int64: a query at position ``p`` sees ``clamp(p + 1 - start, 0, block_k)`` keys of the block from ``start`` on.
    """
    first = (row * block_q).clamp_min(n_k - n_q)
    last = ((row + 1) * block_q).clamp_max(n_k)  # the first position after the block
    start = column * block_k

    def up_to(count: Tensor) -> Tensor:
        """The sum of ``min(t, block_k)`` over t = 1 .. count."""
        steep = count.clamp(0, block_k)
        return steep * (steep + 1) // 2 + (count - block_k).clamp_min(0) * block_k

    return torch.where(first < last, up_to(last - start) - up_to(first - start), 0)


@dataclass(frozen=True)
class _Either(Pattern):
    left: Pattern
    right: Pattern

    @property
    def heads(self) -> int:  # type: ignore[override]
        return max(self.left.heads, self.right.heads)

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _narrow(self.left, head, query, key) | _narrow(self.right, head, query, key)

    def of_head(self, head: int, query: Tensor, n_k: int) -> Tensor:
        left, right = (part.of_head(min(head, part.heads - 1), query, n_k) for part in (self.left, self.right))
        return left | right


def _narrow(pattern: Pattern, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The predicate of a pattern, with head 0 if all heads see the same."""
    return pattern.sees(head if pattern.heads > 1 else torch.zeros_like(head), query, key)
