"""Helpers of the tests of methods: the paper's budgets, made inputs, and attention written out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex, CorrectedIndex, Kept, LineIndex, PageIndex, PrefillIndex
from sparse_tasks.attention.reference import attention_reference
from sparse_tasks.attention.softmax import PLAIN, Softmax

DENSITIES = (0.05, 0.0667, 0.1, 0.1333, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""In the order of the tables of Nawrot et al. 2025 (arXiv:2504.17768), from the highest sparsity on."""

CAPACITIES = {
    16384: (819, 1092, 1638, 2183, 3276, 4915, 6553, 8192, 9830, 11468),
    32768: (1638, 2185, 3276, 4367, 6553, 9830, 13107, 16384, 19660, 22937),
    65536: (3276, 4371, 6553, 8735, 13107, 19660, 26214, 32768, 39321, 45875),
}
"""Of SnapKV and Ada-SnapKV."""

Array = npt.NDArray[np.float64]


def make_sequence(
    n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random queries ``[n_q, heads, size]`` and keys ``[n_k, kv_heads, size]``, both strided views."""
    make = torch.Generator().manual_seed(seed)
    q = torch.randn(heads, n_q, size, generator=make).to(dtype).transpose(0, 1)
    return q, torch.randn(kv_heads, n_k, size, generator=make).to(dtype).transpose(0, 1)


def wide_cache(lengths: list[int], capacity: int, kv_heads: int = 1) -> PagedCache:
    """A cache of any capacity that has one block of 16 positions, which every entry of its table names."""
    keys = torch.randn(1, 16, kv_heads, 16, generator=torch.Generator().manual_seed(1))
    table = torch.zeros(len(lengths), capacity // 16, dtype=torch.int32)
    return PagedCache(keys, keys, table, torch.tensor(lengths, dtype=torch.int32))


def attention(q: Tensor, k: Tensor) -> Array:
    """Causal attention probabilities, query by query: ``[query_heads, n_q, n_k]``."""
    queries, keys = q.double().numpy(), k.double().numpy()
    (n_q, heads, size), (n_k, kv_heads, _) = queries.shape, keys.shape
    weights = np.zeros((heads, n_q, n_k))
    for head in range(heads):
        for i in range(n_q):
            seen = n_k - n_q + i + 1
            scores = keys[:seen, head // (heads // kv_heads)] @ queries[i, head] / math.sqrt(size)
            exponentials = np.exp(scores - scores.max())
            weights[head, i, :seen] = exponentials / exponentials.sum()
    return weights


def pooled_products(q: Tensor, k: Tensor, block: int) -> list[list[Array]]:
    """Of each head and query block, the products of its mean query and the mean keys of the blocks up to its own."""
    queries, keys = q.double().numpy(), k.double().numpy()
    (n_q, heads, size), (n_k, kv_heads, _) = queries.shape, keys.shape
    before = n_k - n_q
    found: list[list[Array]] = []
    for head in range(heads):
        means = [keys[i : i + block, head // (heads // kv_heads)].mean(0) for i in range(0, n_k, block)]
        found.append([])
        for row in range(before // block, len(means)):
            query = queries[max(0, row * block - before) : (row + 1) * block - before, head].mean(0)
            found[-1].append(np.array([query @ mean / math.sqrt(size) for mean in means[: row + 1]]))
    return found


def cells(row: int, column: int, block: int, n_q: int, n_k: int) -> int:
    """Causal interactions of a query block with a key block, query by query."""
    queries = range(max(row * block, n_k - n_q), min((row + 1) * block, n_k))
    return sum(max(0, min(block, query + 1 - column * block)) for query in queries)


def before_each(weights: Array, first: set[int]) -> Array:
    """The share of weight that comes before each entry: that of ``first``, and of larger ones; -1 for ``first``."""
    rest = sorted((i for i in range(len(weights)) if i not in first), key=lambda i: (-weights[i], i))
    mass, before = sum(weights[i] for i in first), np.full(len(weights), -1.0)
    for i in rest:
        before[i] = mass / weights.sum()
        mass += weights[i]
    return before


def smoothed(scores: Array, kernel: int) -> Array:
    """Means over ``kernel`` neighbours along the last axis, what lies past the ends counting as 0."""
    out, half = np.zeros_like(scores), kernel // 2
    for i in range(scores.shape[-1]):
        out[..., i] = scores[..., max(0, i - half) : i + half + 1].sum(-1) / kernel
    return out


def top(scores: Array, count: int, always: set[int]) -> list[int]:
    """The positions of ``always``, and then of the highest scores, until there are ``count``; ascending."""
    ranked = sorted(range(len(scores)), key=lambda i: (i not in always, -scores[i], i))
    return sorted(ranked[:count])


def ends(n: int, first: int, last: int) -> set[int]:
    """The first and the last of ``n`` positions."""
    return set(range(first)) | set(range(n - last, n))


def kept_lists(kept: Kept) -> list[list[int]]:
    """Positions each KV head keeps, after a check that positions ascend without repeats and are within the length."""
    assert kept.positions.dtype == kept.counts.dtype == torch.int32
    return _lists(kept.positions, kept.counts, kept.length)


def page_lists(index: PageIndex) -> list[list[list[int]]]:
    """Positions that each KV head of each sequence reads, after the same check."""
    assert index.pages.dtype == index.counts.dtype == torch.int32
    longest = [-(-length // index.unit) for length in index.lengths.tolist()]
    return [_lists(index.pages[row], index.counts[row], pages) for row, pages in enumerate(longest)]


def block_lists(index: BlockIndex) -> list[list[list[int]]]:
    """The key blocks that each query block of each head reads, after the same check; none is after the diagonal."""
    assert index.blocks.dtype == index.counts.dtype == torch.int32
    heads = [_lists(b, c, -(-index.n_k // index.block_k)) for b, c in zip(index.blocks, index.counts, strict=True)]
    for rows in heads:
        for row, blocks in enumerate(rows):
            assert not blocks or blocks[-1] * index.block_k < (index.first_row + row + 1) * index.block_q
    return heads


def line_lists(index: LineIndex) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Verticals, slashes and bands of each head, after the same check."""
    assert index.slashes is not None
    assert index.slash_counts is not None
    numbers = (index.columns, index.slashes, index.bands)
    assert all(x.dtype == torch.int32 for x in (*numbers, index.column_counts, index.slash_counts, index.band_counts))
    return (
        _lists(index.columns, index.column_counts, index.n_k),
        _lists(index.slashes, index.slash_counts, index.n_k),
        _lists(index.bands, index.band_counts, (index.n_k + 2 * index.block_q) // index.unit),
    )


def crossed_bands(slashes: list[int], block_q: int, unit: int) -> list[int]:
    """The bands that hold a key which a query of a block, far from the start, sees at one of the distances."""
    row = 10_000
    keys = {row * block_q + i - distance for distance in slashes for i in range(block_q)}
    return sorted({(row + 1) * (block_q // unit) - 1 - key // unit for key in keys})


def _lists(numbers: Tensor, counts: Tensor, end: int) -> list[list[int]]:
    lists = [row[:count] for row, count in zip(numbers.tolist(), counts.tolist(), strict=True)]
    for head, count in zip(lists, counts.tolist(), strict=True):
        assert len(head) == count
        assert head == sorted(set(head))
        assert not head or (head[0] >= 0 and head[-1] < end)
    return lists


def index_reference(q: Tensor, k: Tensor, v: Tensor, index: PrefillIndex, *, softmax: Softmax = PLAIN) -> Tensor:
    """Attention under an index by masks alone; where it is corrected, each query in turn by the last anchor's."""
    if not isinstance(index, CorrectedIndex):
        return attention_reference(q, k, v, index.pattern(), softmax=softmax)
    sparse = attention_reference(q, k, v, index.sparse.pattern(), softmax=softmax)
    dense, out, first = attention_reference(q, k, v, softmax=softmax), sparse.clone(), len(k) - len(q)
    for row in range(len(q)):
        if row == 0 or (first + row) % index.every == 0:
            lacking = dense[row] - sparse[row]
        out[row] += lacking
    return out


def step_reference(q: Tensor, k: Tensor, v: Tensor, index: PageIndex, *, softmax: Softmax = PLAIN) -> Tensor:
    """Attention of one query under an index, head by head: each key is weighted by its page."""
    (_, heads, size), n, group = q.shape, len(k), q.shape[1] // k.shape[1]
    out = torch.zeros(1, heads, v.shape[2])
    for head in range(heads):
        kv_head, numerator, denominator = head // group, torch.zeros(v.shape[2], dtype=torch.float64), 0.0
        if softmax.sinks is not None:
            denominator = math.exp(softmax.sinks[head])
        for place, page in enumerate(index.pages[0, kv_head, : index.counts[0, kv_head]].tolist()):
            weight = 1.0 if index.log_weights is None else math.exp(index.log_weights[0, kv_head, place])
            for position in range(page * index.unit, min((page + 1) * index.unit, n)):
                score = float(q[0, head].double() @ k[position, kv_head].double()) / math.sqrt(size)
                if softmax.soft_cap is not None:
                    score = softmax.soft_cap * math.tanh(score / softmax.soft_cap)
                numerator += weight * math.exp(score) * v[position, kv_head].double()
                denominator += weight * math.exp(score)
        out[0, head] = numerator / denominator
    return out
