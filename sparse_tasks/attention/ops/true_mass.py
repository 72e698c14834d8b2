"""True attention, summed over blocks of queries and keys or over pages, without a quadratic intermediate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.step_weights import step_weights
from sparse_tasks.attention.softmax import PLAIN, Softmax

_ROWS: Final = 64  # queries at once, or a multiple, if there are no query blocks
_CELLS: Final = 1 << 23  # weights in memory at once, or those of a single block of queries: 32 MB of fp32


class _Rows(NamedTuple):
    """Layout of query block rows."""

    numbers: slice
    absent: int  # queries missing from the first row
    block: int

    def split(self, x: Tensor, beyond: float) -> Tensor:
        """``[heads, queries, columns]`` as ``[heads, rows, block, columns]``, padded with ``beyond``."""
        pad = (0, 0, self.absent, -(x.shape[1] + self.absent) % self.block)
        return torch.nn.functional.pad(x, pad, value=beyond).unflatten(1, (-1, self.block))


def block_mass(q: Tensor, k: Tensor, block: int, softmax: Softmax = PLAIN, block_k: int | None = None) -> Tensor:
    """Causal softmax weights, summed over blocks.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        block: Positions in a block of queries and of keys; both grids begin at position 0.
        softmax: The model's sinks and soft cap.
        block_k: Positions in a block of keys, a divisor or a multiple of ``block``.

    Returns:
        fp32 ``[query_heads, rows, columns]``, a row for each query block; -inf after the
        diagonal.
    """
    block_k = block if block_k is None else block_k
    mass = _grid(q, k, block, block_k)
    for heads, rows, scores in _scores(q, k, block, softmax):
        weights = softmax.of(heads, -1, 1).weights(scores)
        by_row = rows.split(_by_block(weights, block_k, 0.0).sum(3), 0.0).sum(2)
        mass[heads, rows.numbers, : by_row.shape[2]] = by_row
    return _causal(mass, q, k, block, block_k)


def block_lead(q: Tensor, k: Tensor, block_q: int, block_k: int, softmax: Softmax = PLAIN) -> Tensor:
    """The amount by which the largest score of a block exceeds those of all blocks between it and the query.

    The online softmax of a kernel that goes backwards from the diagonal computes it on the fly.

    Args:
        q: As for ``block_mass``, like k and softmax.
        k: As for ``block_mass``.
        block_q: Positions in a block of queries.
        block_k: Positions in a block of keys, a multiple of ``block_q``.
        softmax: The model's sinks and soft cap.

    Returns:
        fp32 ``[query_heads, rows, columns]``: the maximum over the queries of a block, below 0 if no query has a new
        maximum there; +inf on the diagonal, -inf after it.
    """
    lead = _grid(q, k, block_q, block_k).fill_(float("-inf"))
    for heads, rows, scores in _scores(q, k, block_q, softmax):
        highest = _by_block(scores, block_k, float("-inf")).amax(3)
        before = highest.flip(2).cummax(2).values.flip(2)
        if softmax.sinks is not None:  # a kernel starts with the sink
            before = before.maximum(softmax.sinks[heads, None, None].to(before.dtype))
        leads = torch.full_like(highest, float("inf"))
        leads[..., :-1] = highest[..., :-1] - before[..., 1:]
        by_row = rows.split(leads.nan_to_num(float("inf")), float("-inf")).amax(2)
        lead[heads, rows.numbers, : by_row.shape[2]] = by_row
    diagonal = torch.arange(lead.shape[2], device=q.device) == _own(q, k, block_q, block_k)[:, None]
    lead.masked_fill_(diagonal, float("inf"))  # setting by index would synchronise
    return _causal(lead, q, k, block_q, block_k)


def far_peaks(q: Tensor, k: Tensor, first: int, last: int, softmax: Softmax = PLAIN) -> Tensor:
    """The largest causal softmax weight of each query outside the first and the last keys that it sees.

    Args:
        q: As for ``block_mass``, like the others.
        first: Number of first keys that do not count.
        last: Number of last keys, up to the query's own, that do not count.

    Returns:
        fp32 ``[query_heads, n_q]``, 0 if there is no other key.
    """
    peaks = torch.zeros(q.shape[1], len(q), dtype=torch.float32, device=q.device)
    for heads, _, scores in _scores(q, k, _ROWS, softmax):
        count, end = scores.shape[1:]
        position, key = torch.arange(end - count, end, device=q.device), torch.arange(end, device=q.device)
        far = (key >= first) & (position[:, None] - key >= last)
        place = end - len(k) + len(q)
        peaks[heads, place - count : place] = softmax.of(heads, -1, 1).weights(scores).where(far, 0.0).amax(2)
    return peaks


def key_peaks(q: Tensor, k: Tensor, softmax: Softmax = PLAIN) -> Tensor:
    """The largest causal softmax weight of each key from a query of its group.

    Args:
        q: As for ``block_mass``, like the others.

    Returns:
        fp32 ``[kv_heads, n_k]``.
    """
    (n_k, kv_heads, _), group = k.shape, q.shape[1] // k.shape[1]
    peaks = torch.zeros(kv_heads, n_k, dtype=torch.float32, device=q.device)
    for heads, _, scores in _scores(q, k, _ROWS, softmax):
        seen = peaks[heads.start // group, : scores.shape[2]]
        torch.maximum(seen, softmax.of(heads, -1, 1).weights(scores).amax((0, 1)), out=seen)
    return peaks


def _scores(q: Tensor, k: Tensor, block: int, softmax: Softmax) -> Iterator[tuple[slice, _Rows, Tensor]]:
    """Causal scores, for some query blocks of a group of heads at a time.

    Yields:
        The query heads; the rows of their blocks; fp32 ``[group, queries, keys up to the last]``, -inf where not seen.
    """
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    group, first = heads // kv_heads, n_k - n_q
    at_once = block * max(1, _CELLS // (group * block * n_k))
    for start in range(first - first % block, n_k, at_once):
        begin, end = max(start, first), min(start + at_once, n_k)
        position = torch.arange(begin, end, device=q.device)
        hidden = torch.arange(end, device=q.device) > position[:, None]
        number = start // block - first // block
        rows = _Rows(slice(number, number + ceil_div(end - start, block)), begin - start, block)
        for head in range(kv_heads):
            of_group = slice(head * group, (head + 1) * group)
            queries = q[begin - first : end - first, of_group].transpose(0, 1).float()
            scores = softmax.capped(queries @ k[:end, head].float().T * size**-0.5)
            yield of_group, rows, scores.masked_fill_(hidden, float("-inf"))


def _by_block(x: Tensor, block: int, beyond: float) -> Tensor:
    """``[..., keys]`` as ``[..., columns, block]``."""
    return torch.nn.functional.pad(x, (0, -x.shape[2] % block), value=beyond).unflatten(2, (-1, block))


def _grid(q: Tensor, k: Tensor, block_q: int, block_k: int) -> Tensor:
    """fp32 zeros ``[query_heads, rows, columns]``."""
    rows, columns = BlockIndex.rows(len(q), len(k), block_q), ceil_div(len(k), block_k)
    return torch.zeros(q.shape[1], rows, columns, dtype=torch.float32, device=q.device)


def _own(q: Tensor, k: Tensor, block_q: int, block_k: int) -> Tensor:
    """int64 ``[rows]``: the key block on the diagonal; the last one if they are smaller than query blocks."""
    rows = torch.arange(BlockIndex.rows(len(q), len(k), block_q), device=q.device) + (len(k) - len(q)) // block_q
    return ((rows + 1) * block_q - 1) // block_k


def _causal(by_block: Tensor, q: Tensor, k: Tensor, block_q: int, block_k: int) -> Tensor:
    """A grid, with -inf after the diagonal."""
    own = _own(q, k, block_q, block_k)[:, None]
    return by_block.masked_fill_(torch.arange(by_block.shape[2], device=q.device) > own, float("-inf"))


def page_mass(q: Tensor, cache: PagedCache, page: int, softmax: Softmax = PLAIN, *, impl: str = "auto") -> Tensor:
    """Softmax weights of a step, summed over pages and over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        cache: The cache, including the queries' own tokens.
        page: Positions in a page.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[batch, kv_heads, pages]``; -inf past a sequence's end.
    """
    weights = step_weights(q, cache, softmax=softmax, impl=impl)
    if page == 1:
        return weights
    by_page = torch.nn.functional.pad(weights, (0, -weights.shape[2] % page)).unflatten(2, (-1, page))
    return by_page.clamp_min(0.0).sum(3).masked_fill(weights[..., ::page] < 0, float("-inf"))
