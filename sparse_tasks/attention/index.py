"""Indices: the keys that a method selected, in the form that kernels take. Kernels know indices, but no methods.

``BlockIndex`` and ``LineIndex`` are for one sequence's prefill, ``PageIndex`` for decoding a batch. Each gives what it
makes visible as a ``Pattern`` or a count, so the sparsity of a run is counted from the index that ran, including what
tiles add. ``selected_density`` gives what the method selected before rounding up to tiles.

Grids of blocks begin at position 0, even if the queries begin later (chunked prefill): row ``r`` of an index is query
block ``first_row + r``, which covers the positions from ``(first_row + r) * block_q`` on.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from sparse_tasks.attention.gather import TILE, gather_rows
from sparse_tasks.attention.interactions import causal_count, ceil_div
from sparse_tasks.attention.once import cached_result
from sparse_tasks.attention.patterns import Blocks, Columns, EveryQuery, Pattern, block_interactions
from sparse_tasks.core.errors import UsageError


@dataclass(frozen=True)
class BlockIndex:
    """The key blocks that each block of queries reads.

    Attributes:
        blocks: int32 ``[heads, rows, width]``: numbers of key blocks, ascending, none of which begins after the query
            block ends; anything past the count.
            ``heads`` is ``query_heads``, ``kv_heads`` (the group shares a selection) or 1.
        counts: int32 ``[heads, rows]``, at most ``width``.
        block_q: Positions in a query block.
        block_k: Positions in a key block.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
    """

    blocks: Tensor
    counts: Tensor
    block_q: int
    block_k: int
    n_q: int
    n_k: int

    @property
    def first_row(self) -> int:
        """The query block of row 0."""
        return (self.n_k - self.n_q) // self.block_q

    @property
    def form(self) -> Hashable:
        """Properties that indices must share to be joined along heads."""
        return self.blocks.shape, self.block_q, self.block_k, self.n_q, self.n_k

    def with_heads_of(self, others: Sequence[BlockIndex]) -> BlockIndex:
        """This index followed by the heads of others of the same form."""
        every = (self, *others)
        return replace(self, blocks=torch.cat([x.blocks for x in every]), counts=torch.cat([x.counts for x in every]))

    @staticmethod
    def rows(n_q: int, n_k: int, block_q: int) -> int:
        """Number of query blocks that contain the last ``n_q`` of ``n_k`` positions."""
        return ceil_div(n_k, block_q) - (n_k - n_q) // block_q

    @classmethod
    def dense(cls, n_q: int, n_k: int, block_q: int, block_k: int, device: torch.device | str = "cpu") -> BlockIndex:
        """All key blocks up to the diagonal: dense causal attention."""
        rows, columns = cls.rows(n_q, n_k, block_q), ceil_div(n_k, block_k)
        last = (torch.arange(rows, device=device) + (n_k - n_q) // block_q + 1) * block_q
        counts = ((last + block_k - 1) // block_k).clamp_max(columns).int()[None]
        blocks = torch.arange(columns, dtype=torch.int32, device=device).expand(1, rows, columns).contiguous()
        return cls(blocks, counts, block_q, block_k, n_q, n_k)

    def tail(self, n_q: int) -> BlockIndex:
        """The index restricted to the last ``n_q`` of its queries."""
        skipped = (self.n_k - n_q) // self.block_q - self.first_row
        return replace(self, blocks=self.blocks[:, skipped:], counts=self.counts[:, skipped:], n_q=n_q)

    def mask(self) -> Tensor:
        """Bool ``[heads, rows, columns]``: which key blocks are read."""
        heads, rows, width = self.blocks.shape
        columns = ceil_div(self.n_k, self.block_k)
        valid = torch.arange(width, device=self.blocks.device) < self.counts[..., None]
        where = torch.where(valid, self.blocks, columns).long()  # undefined entries go to an extra column
        kept = torch.zeros(heads, rows, columns + 1, dtype=torch.bool, device=self.blocks.device)
        return kept.scatter_(2, where, True)[..., :columns]

    def pattern(self) -> Pattern:
        """The keys that queries see, as a pattern."""
        return Blocks(self.mask(), self.block_q, self.block_k, self.first_row)

    def seen(self) -> Tensor:
        """int64 ``[heads]``: causal interactions with the listed blocks."""
        return self._count(self.blocks, self.counts, self.block_q)

    def computed(self) -> Tensor:
        """int64 ``[heads]``: causal interactions that a kernel computes, which gathers small query blocks into tiles.

        All queries of a tile are multiplied with what any of them sees, and unseen products are discarded.
        """
        if self.block_q >= TILE:
            return self.seen()
        gathered = gather_rows(self)
        return self._count(gathered.blocks, gathered.counts, TILE)

    def _count(self, blocks: Tensor, counts: Tensor, block_q: int) -> Tensor:
        first = (self.n_k - self.n_q) // block_q
        rows = torch.arange(blocks.shape[1], device=blocks.device)[:, None] + first
        seen = block_interactions(rows, blocks.long(), block_q, self.block_k, self.n_q, self.n_k)
        valid = torch.arange(blocks.shape[2], device=blocks.device) < counts[..., None]
        return torch.where(valid, seen, 0).sum((1, 2))

    def density(self) -> Tensor:
        """float64 ``[heads]``: computed interactions over those of dense causal attention."""
        return self.computed().double() / causal_count(self.n_q, self.n_k)

    def selected_density(self) -> Tensor:
        """float64 ``[heads]``: selected interactions over those of dense causal attention."""
        return self.seen().double() / causal_count(self.n_q, self.n_k)

    def nbytes(self) -> int:
        """Bytes of the index itself."""
        return sum(x.numel() * x.element_size() for x in (self.blocks, self.counts))


@dataclass(frozen=True)
class LineIndex:
    """Verticals, and slashes rounded to bands of tiles relative to the query block. The same for all rows of a head.

    A query block of ``block_q`` positions meets its diagonal in ``block_q / unit`` units of keys; band 0 is the last of
    them, and band ``b`` is ``b`` units before it: the units that a slash crosses, whatever the query block. So the size
    of an index is linear in the length. A vertical within a band counts once.

    Attributes:
        columns: int32 ``[heads, width]``: key positions, ascending; undefined past the count.
        column_counts: int32 ``[heads]``.
        bands: int32 ``[heads, width]``: bands, ascending; undefined past the count.
        band_counts: int32 ``[heads]``.
        block_q: Positions in a query block, a multiple of ``unit``.
        unit: Keys in a band.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        slashes: int32 ``[heads, width]``: the distances that were rounded to bands, ascending; undefined past the
            count. None if the bands themselves were selected.
        slash_counts: int32 ``[heads]``.
    """

    columns: Tensor
    column_counts: Tensor
    bands: Tensor
    band_counts: Tensor
    block_q: int
    unit: int
    n_q: int
    n_k: int
    slashes: Tensor | None = None
    slash_counts: Tensor | None = None

    @property
    def form(self) -> Hashable:
        """Properties that indices must share to be joined along heads."""
        return self.columns.shape, self.bands.shape, self.block_q, self.unit, self.n_q, self.n_k

    def with_heads_of(self, others: Sequence[LineIndex]) -> LineIndex:
        """This index with the heads of others of its form after its own, without slashes, which are not computed."""
        every = (self, *others)
        return replace(
            self,
            columns=torch.cat([x.columns for x in every]),
            column_counts=torch.cat([x.column_counts for x in every]),
            bands=torch.cat([x.bands for x in every]),
            band_counts=torch.cat([x.band_counts for x in every]),
            slashes=None,
            slash_counts=None,
        )

    def tail(self, n_q: int) -> LineIndex:
        """The index restricted to the last ``n_q`` of its queries."""
        return replace(self, n_q=n_q)

    def band_mask(self) -> Tensor:
        """Bool ``[heads, bands]``: which bands are read."""
        return _flags(self.bands, self.band_counts, ceil_div(self.n_k, self.unit) + self.block_q // self.unit)

    def pattern(self) -> Pattern:
        """The keys that queries see, as a pattern."""
        return Columns(_flags(self.columns, self.column_counts, self.n_k)) | _Bands(
            self.band_mask(), self.block_q, self.unit
        )

    def computed(self) -> Tensor:
        """int64 ``[heads]``: causal interactions that a kernel computes."""
        kept, per_row = self.band_mask(), self.block_q // self.unit
        tiles = band_interactions(kept.device, self.n_q, self.n_k, self.block_q, self.unit)
        valid = torch.arange(self.columns.shape[1], device=kept.device) < self.column_counts[:, None]
        column = torch.where(valid, self.columns, 0).long()
        later = queries_outside(kept, self.n_q, self.n_k, self.block_q, self.unit).gather(1, column // self.unit)
        # Its own query block, whose band is usually kept, but need not be.
        place = column % self.block_q
        end = (column - place + self.block_q).clamp_max(self.n_k)
        own = (end - column.clamp_min(self.n_k - self.n_q)).clamp_min(0)
        own = own * ~kept.gather(1, per_row - 1 - place // self.unit)
        return (kept * tiles).sum(1) + ((later + own) * valid).sum(1)

    def density(self) -> Tensor:
        """float64 ``[heads]``: computed interactions over those of dense causal attention."""
        return self.computed().double() / causal_count(self.n_q, self.n_k)

    def selected_density(self) -> Tensor:
        """float64 ``[heads]``: interactions on the selected lines over those of dense causal attention."""
        if self.slashes is None or self.slash_counts is None:
            return self.density()
        columns = _flags(self.columns, self.column_counts, self.n_k)
        slashes = _flags(self.slashes, self.slash_counts, self.n_k)
        return line_interactions(columns, slashes, self.n_q).double() / causal_count(self.n_q, self.n_k)

    def nbytes(self) -> int:
        """Bytes of the index itself."""
        held = (self.columns, self.column_counts, self.bands, self.band_counts, self.slashes, self.slash_counts)
        return sum(x.numel() * x.element_size() for x in held if x is not None)


@cached_result
def band_interactions(device: torch.device, n_q: int, n_k: int, block_q: int, unit: int) -> Tensor:
    """int64 ``[bands]``: causal interactions of all queries in each band of a ``LineIndex``."""
    per_row = block_q // unit
    rows = torch.arange((n_k - n_q) // block_q, ceil_div(n_k, block_q), device=device)[:, None]
    units = (rows + 1) * per_row - 1 - torch.arange(ceil_div(n_k, unit) + per_row, device=device)
    tiles = block_interactions(rows, units.clamp_min(0), block_q, unit, n_q, n_k)
    return torch.where(units >= 0, tiles, 0).sum(0)


def queries_outside(kept: Tensor, n_q: int, n_k: int, block_q: int, unit: int) -> Tensor:
    """int64 ``[..., units]``: queries that see a key of a unit outside the kept bands ``[..., bands]``.

    The key's own query block does not count. Of unit ``per_row * w + s`` the query
    block ``w + j`` lies in band ``per_row * (j + 1) - 1 - s``: a running sum along ``j`` says how many are not kept.
    """
    per_row, units, rows = block_q // unit, ceil_div(n_k, unit), ceil_div(n_k, block_q)
    first = (n_k - n_q) // block_q
    free = torch.nn.functional.pad(~kept, (0, (rows + 1) * per_row - kept.shape[-1]), value=True)
    free = free.unflatten(-1, (rows + 1, per_row)).flip(-1).transpose(-1, -2).int()  # by s, then j
    before = torch.nn.functional.pad(free.cumsum(-1, dtype=torch.int32), (1, 0))
    w = torch.arange(rows, device=kept.device)
    rest = block_q * (before[..., rows - w] - before[..., (first - w).clamp_min(1)]).long()
    # The first and last block may be partial.
    rest -= (rows * block_q - n_k) * free[..., rows - 1 - w] * (w < rows - 1)
    rest -= (n_k - n_q - first * block_q) * free[..., (first - w).clamp_min(0)] * (w < first)
    return rest.transpose(-1, -2).flatten(-2)[..., :units]


def line_interactions(columns: Tensor, slashes: Tensor, n_q: int) -> Tensor:
    """Causal interactions on verticals and slashes, counting crossings once.

    Args:
        columns: bool ``[heads, n_k]``, by position.
        slashes: bool ``[heads, n_k]``, by distance from query to key.
        n_q: Queries; they are the last of the ``n_k`` positions.

    Returns:
        int64 ``[heads]``. A vertical at ``c`` and a slash at ``d`` cross at the query ``c + d``, if there is one.
    """
    n_k = columns.shape[1]
    position = torch.arange(n_k, device=columns.device)
    queries = n_k - position.clamp_min(n_k - n_q)  # that see the key at the position; that have a key at this distance
    upto = slashes.cumsum(1, dtype=torch.int32)
    crossing = upto.flip(1)  # slashes of at most n_k - 1 - c, so that the query exists
    before = n_k - n_q - 1 - position  # slashes of at most this distance cross the vertical before the first query
    early = upto[:, before.clamp_min(0)] * (before >= 0)
    return ((columns * queries) + (slashes * queries) - columns * (crossing - early)).sum(1)


@dataclass(frozen=True)
class _Bands(Pattern):
    """The bands of a ``LineIndex``: tiles at fixed distances from the query's own."""

    kept: Tensor
    block_q: int
    unit: int

    @property
    def heads(self) -> int:  # type: ignore[override]
        return int(self.kept.shape[0])

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        band = (query // self.block_q + 1) * (self.block_q // self.unit) - 1 - key // self.unit
        return self.kept[head, band.clamp_min(0)] & (band >= 0)

    def of_head(self, head: int, query: Tensor, n_k: int) -> Tensor:
        blocks, row = torch.unique(query // self.block_q, return_inverse=True)
        unit = torch.arange(ceil_div(n_k, self.unit), device=query.device)
        tiles = self.sees(torch.tensor(head, device=query.device), blocks[:, None] * self.block_q, unit * self.unit)
        return tiles.index_select(0, row).repeat_interleave(self.unit, 1)[:, :n_k]


@dataclass(frozen=True)
class SkipIndex:
    """A threshold by which a kernel decides what to read, going backwards from the diagonal, and a record of that.

    A tile is skipped if, for each of its queries, its largest score minus the running maximum is below the logarithm of
    the threshold. The tile on the diagonal is always kept. What the index makes visible is only known after attention
    has run, which fills ``kept``.

    Attributes:
        threshold: Above 0, and at most 1.
        kept: int8 ``[query_heads, rows, columns]``: 1 where a tile was kept; 0 until attention has run.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
    """

    threshold: float
    kept: Tensor
    n_q: int
    n_k: int
    block_q: ClassVar[int] = 64
    block_k: ClassVar[int] = 128

    @classmethod
    def new(cls, threshold: float, heads: int, n_q: int, n_k: int, device: torch.device | str) -> SkipIndex:
        """The index before attention has run."""
        rows, columns = BlockIndex.rows(n_q, n_k, cls.block_q), ceil_div(n_k, cls.block_k)
        return cls(threshold, torch.zeros(heads, rows, columns, dtype=torch.int8, device=device), n_q, n_k)

    @property
    def mark(self) -> float:
        """The base-2 logarithm of the threshold."""
        return math.log2(self.threshold)

    @property
    def form(self) -> Hashable:
        """Properties that indices must share to be joined along heads."""
        return self.kept.shape, self.n_q, self.n_k

    def with_heads_of(self, others: Sequence[SkipIndex]) -> SkipIndex:
        """This index followed by the heads of others of the same form."""
        return replace(self, kept=torch.cat([x.kept for x in (self, *others)]))

    def tail(self, n_q: int) -> SkipIndex:
        """The index restricted to the last ``n_q`` of its queries."""
        skipped = (self.n_k - n_q) // self.block_q - (self.n_k - self.n_q) // self.block_q
        return replace(self, kept=self.kept[:, skipped:].contiguous(), n_q=n_q)

    def mask(self) -> Tensor:
        """Bool ``[heads, rows, columns]``: which tiles were kept."""
        return self.kept.bool()

    def pattern(self) -> Pattern:
        """The keys that queries saw, as a pattern."""
        return self._pattern()

    def _pattern(self) -> Blocks:
        return Blocks(self.mask(), self.block_q, self.block_k, (self.n_k - self.n_q) // self.block_q)

    def computed(self) -> Tensor:
        """int64 ``[heads]``: causal interactions of the kept tiles; for others only scores are computed."""
        return self._pattern().count(self.n_q, self.n_k, self.kept.device)

    def density(self) -> Tensor:
        """float64 ``[heads]``: interactions of the kept tiles over those of dense causal attention."""
        return self.computed().double() / causal_count(self.n_q, self.n_k)

    def selected_density(self) -> Tensor:
        """Same as ``density``."""
        return self.density()

    def nbytes(self) -> int:
        """Bytes of the index itself."""
        return int(self.kept.numel())


@dataclass(frozen=True)
class CorrectedIndex:
    """An index with anchors: queries that are also computed densely, and correct the queries after them.

    Anchors are the queries at multiples of ``every``, and the first of the queries. The difference of each between
    dense and sparse output is added to its own output and to those up to the next anchor.

    Attributes:
        sparse: The index for all queries.
        every: Positions from one anchor to the next.
    """

    sparse: BlockIndex | LineIndex
    every: int

    @property
    def n_q(self) -> int:
        """Queries; they are the last of the ``n_k`` positions."""
        return self.sparse.n_q

    @property
    def n_k(self) -> int:
        """Keys."""
        return self.sparse.n_k

    @property
    def form(self) -> Hashable:
        """Properties that indices must share to be joined along heads."""
        return self.every, self.sparse.form

    def with_heads_of(self, others: Sequence[CorrectedIndex]) -> CorrectedIndex:
        """This index followed by the heads of others of the same form."""
        sparse: Any = [other.sparse for other in others]  # all of one form
        return replace(self, sparse=self.sparse.with_heads_of(sparse))

    def tail(self, n_q: int) -> CorrectedIndex:
        """The index of the last ``n_q`` of its queries alone, the first of which then is an anchor."""
        return replace(self, sparse=self.sparse.tail(n_q))

    def pattern(self) -> Pattern:
        """The keys that queries see, as a pattern, without those that only contribute to the correction."""
        return self.sparse.pattern() | EveryQuery(self.every, self.n_k - self.n_q)

    def computed(self) -> Tensor:
        """int64 ``[heads]``: computed causal interactions; anchors count twice, sparse and dense."""
        return self.sparse.computed() + self._of_anchors()

    def density(self) -> Tensor:
        """float64 ``[heads]``: computed interactions over those of dense causal attention."""
        return self.computed().double() / causal_count(self.n_q, self.n_k)

    def selected_density(self) -> Tensor:
        """float64 ``[heads]``: selected interactions over those of dense causal attention."""
        return self.sparse.selected_density() + self._of_anchors() / causal_count(self.n_q, self.n_k)

    def nbytes(self) -> int:
        """Bytes of the index itself."""
        return self.sparse.nbytes()

    def _of_anchors(self) -> int:
        """Interactions of the anchors with all keys up to themselves."""
        first = self.n_k - self.n_q
        later = range((first // self.every + 1) * self.every, self.n_k, self.every)
        return first + 1 + sum(later) + len(later)


Selected: TypeAlias = BlockIndex | LineIndex | CorrectedIndex
"""What is known before attention runs."""

PrefillIndex: TypeAlias = Selected | SkipIndex


def computed_by(indices: Sequence[PrefillIndex]) -> Tensor:
    """int64 ``[indices, heads]``: computed interactions of indices with one form, with as few launches as for one."""
    first, *others = indices
    return first.with_heads_of(others).computed().view(len(indices), -1)  # type: ignore[arg-type]  # all of one form


@dataclass(frozen=True)
class PageIndex:
    """The pages of the cache that each sequence of a batch reads for its next token, per KV head.

    A page here is a unit of selection of ``unit`` consecutive positions, ``[page * unit, (page + 1) * unit)``: 16 for
    Quest, 1 for methods that keep or evict tokens. It is independent of the cache's layout.

    Attributes:
        pages: int32 ``[batch, kv_heads, width]``: numbers of pages, ascending; undefined past the count.
        counts: int32 ``[batch, kv_heads]``, at most ``width``.
        unit: Positions in a page.
        lengths: int32 ``[batch]``: cached positions of each sequence, including the query's.
        log_weights: fp32 like ``pages``: logarithms of the weight of a page in the numerator and denominator of the
            softmax, where a sample stands for other pages; undefined past the count. None: weight 1.
    """

    pages: Tensor
    counts: Tensor
    unit: int
    lengths: Tensor
    log_weights: Tensor | None = None

    @classmethod
    def dense(cls, lengths: Tensor, kv_heads: int, unit: int, longest: int) -> PageIndex:
        """All pages of sequences of at most ``longest`` positions: dense attention."""
        pages = torch.arange(ceil_div(longest, unit), dtype=torch.int32, device=lengths.device)
        counts = ((lengths + unit - 1) // unit).int()[:, None].expand(-1, kv_heads).contiguous()
        return cls(pages.expand(len(lengths), kv_heads, -1).contiguous(), counts, unit, lengths)

    def rows(self, which: slice) -> PageIndex:
        """The index for some sequences of the batch."""
        weights = None if self.log_weights is None else self.log_weights[which]
        return PageIndex(self.pages[which], self.counts[which], self.unit, self.lengths[which], weights)

    def mask(self, longest: int) -> Tensor:
        """Bool ``[batch, kv_heads, longest]``: which positions are read."""
        batch, heads, _ = self.pages.shape
        pages = ceil_div(longest, self.unit)
        kept = _flags(self.pages.flatten(0, 1), self.counts.flatten(), pages).view(batch, heads, pages)
        tokens = kept.repeat_interleave(self.unit, 2)[..., :longest]
        return tokens & (torch.arange(longest, device=kept.device) < self.lengths[:, None, None])

    def shifts(self, longest: int) -> Tensor | None:
        """fp32 ``[batch, kv_heads, longest]``: the logarithm of each position's weight, 0 where it is not read."""
        if self.log_weights is None:
            return None
        valid = torch.arange(self.pages.shape[2], device=self.pages.device) < self.counts[..., None]
        end = ceil_div(longest, self.unit)
        by_page = torch.zeros(*self.counts.shape, end + 1, dtype=torch.float32, device=self.pages.device)
        by_page.scatter_(2, torch.where(valid, self.pages, end).long(), self.log_weights)
        return by_page[..., :end].repeat_interleave(self.unit, 2)[..., :longest]

    def computed(self) -> Tensor:
        """int64 ``[batch, kv_heads]``: positions read; the last page may be partial."""
        valid = torch.arange(self.pages.shape[2], device=self.pages.device) < self.counts[..., None]
        inside = (self.lengths[:, None, None] - self.pages.long() * self.unit).clamp(0, self.unit)
        return (inside * valid).sum(2)

    def density(self) -> Tensor:
        """float64 ``[batch, kv_heads]``: positions read over positions cached."""
        return self.computed().double() / self.lengths[:, None]

    def nbytes(self) -> int:
        """Bytes of the index itself."""
        held = (self.pages, self.counts, self.log_weights)
        return sum(x.numel() * x.element_size() for x in held if x is not None)


def _flags(numbers: Tensor, counts: Tensor, size: int) -> Tensor:
    """Bool ``[heads, size]``: True at the first ``counts[h]`` of ``numbers[h]``."""
    valid = torch.arange(numbers.shape[1], device=numbers.device) < counts[:, None]
    where = torch.where(valid, numbers, size).long().clamp(0, size)
    return torch.zeros(numbers.shape[0], size + 1, dtype=torch.bool, device=numbers.device).scatter_(1, where, True)[
        :, :size
    ]


@dataclass(frozen=True)
class Kept:
    """The positions of one sequence that an evicting method keeps, per KV head.

    Attributes:
        positions: int32 ``[kv_heads, width]``, ascending; undefined past the count.
        counts: int32 ``[kv_heads]``, at most ``width``.
        length: Positions so far, including evicted ones.
        scores: fp32 ``[kv_heads, width]``: what the method has accumulated for each, if it does.
        capacity: Maximum a head keeps after each step, for methods that evict at each step; then ``counts`` are
            ``width``.
    """

    positions: Tensor
    counts: Tensor
    length: int
    scores: Tensor | None = None
    capacity: int | None = None

    @classmethod
    def alike(cls, positions: Tensor, kv_heads: int, length: int) -> Kept:
        """The same positions in all heads: int32 ``[width]``, ascending."""
        counts = torch.full((kv_heads,), len(positions), dtype=torch.int32, device=positions.device)
        return cls(positions.repeat(kv_heads, 1), counts, length)

    def append(self, position: int) -> Kept:
        """With the next position appended in every head, with score 0."""
        positions, scores = _appended(self.positions, self.counts, position, self.scores)
        return Kept(positions, self.counts + 1, position + 1, scores, self.capacity)

    def pages(self) -> PageIndex:
        """As an index for a batch of one, with pages of one position."""
        lengths = torch.tensor([self.length], dtype=torch.int32, device=self.positions.device)
        return PageIndex(self.positions[None], self.counts[None], 1, lengths)


@dataclass(frozen=True)
class KeptBatch:
    """``Kept`` for all sequences of a batch, for a method that evicts at each step.

    Attributes:
        positions: int32 ``[batch, kv_heads, width]``, ascending; undefined past the count.
        counts: int32 ``[batch, kv_heads]``.
        capacities: int32 ``[batch]``.
        sizes: Maximum that a head of each sequence keeps, the largest being ``width``: the host knows shapes without
            synchronising.
        limits: The capacities, on the host.
        scores: fp32 ``[batch, kv_heads, width]``; None if the method accumulates nothing.
    """

    positions: Tensor
    counts: Tensor
    capacities: Tensor
    sizes: tuple[int, ...]
    limits: tuple[int, ...]
    scores: Tensor | None = None

    @classmethod
    def of(cls, kept: Kept) -> KeptBatch:
        """A batch of one.

        Raises:
            UsageError: It has no capacity.
        """
        if kept.capacity is None:
            raise UsageError("kept.capacity", None, "has to be a number of tokens where a method evicts at each step")
        scores = None if kept.scores is None else kept.scores[None]
        capacities = kept.counts.new_full((1,), kept.capacity)
        return cls(
            kept.positions[None], kept.counts[None], capacities, (kept.positions.shape[1],), (kept.capacity,), scores
        )

    @classmethod
    def joined(cls, parts: Sequence[KeptBatch]) -> KeptBatch:
        """Concatenate batches of one method."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.positions.shape[2] for part in parts)

        def wide(lists: Sequence[Tensor]) -> Tensor:
            return torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[2])) for one in lists])

        scores = None
        if any(part.scores is not None for part in parts):
            scores = wide(
                [torch.zeros_like(p.positions, dtype=torch.float32) if p.scores is None else p.scores for p in parts]
            )
        return cls(
            wide([part.positions for part in parts]),
            torch.cat([part.counts for part in parts]),
            torch.cat([part.capacities for part in parts]),
            tuple(size for part in parts for size in part.sizes),
            tuple(limit for part in parts for limit in part.limits),
            scores,
        )

    def only(self, length: int) -> Kept:
        """The only sequence of the batch, with this many positions."""
        scores = None if self.scores is None else self.scores[0]
        return Kept(self.positions[0], self.counts[0], length, scores, self.limits[0])

    def take(self, rows: Sequence[int]) -> KeptBatch:
        """Some sequences, in that order."""
        if list(rows) == list(range(len(self.sizes))):
            return self
        sizes = tuple(self.sizes[row] for row in rows)
        index = torch.tensor(rows, device=self.positions.device)
        return KeptBatch(
            self.positions[index, :, : max(sizes)],
            self.counts[index],
            self.capacities[index],
            sizes,
            tuple(self.limits[row] for row in rows),
            None if self.scores is None else self.scores[index, :, : max(sizes)],
        )

    def append(self, position: Tensor) -> KeptBatch:
        """With one more position for each sequence, int32 ``[batch]``, with score 0."""
        positions, scores = _appended(self.positions, self.counts, position[:, None, None], self.scores)
        sizes = tuple(size + 1 for size in self.sizes)
        return replace(self, positions=positions, counts=self.counts + 1, sizes=sizes, scores=scores)

    def widen(self, which: Sequence[bool]) -> KeptBatch:
        """With a capacity larger by one token for some of the sequences."""
        more = 1 if all(which) else torch.tensor(which, dtype=torch.int32, device=self.capacities.device)
        limits = tuple(limit + wider for limit, wider in zip(self.limits, which, strict=True))
        return replace(self, capacities=self.capacities + more, limits=limits)


def _appended(
    positions: Tensor, counts: Tensor, position: int | Tensor, scores: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Lists ``[..., kv_heads, width]`` with one more column, and a position with score 0 appended to each head."""
    own = torch.arange(positions.shape[-1] + 1, device=positions.device) == counts[..., None]
    grown = torch.where(own, position, torch.nn.functional.pad(positions, (0, 1)))
    return grown, None if scores is None else torch.nn.functional.pad(scores, (0, 1)).masked_fill(own, 0.0)
