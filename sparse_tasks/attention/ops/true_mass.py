"""True attention, summed over blocks of queries and keys or over pages; what is quadratic is never held."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.softmax import PLAIN, Softmax

_CELLS: Final = 1 << 22  # weights that are held at once, or those of a single block of queries: 16 MB of fp32


def block_mass(q: Tensor, k: Tensor, block: int, softmax: Softmax = PLAIN) -> Tensor:
    """Causal softmax weights, summed over blocks.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        block: Positions in a block of queries and of keys; both grids begin at position 0.
        softmax: Sinks and soft cap of the model.

    Returns:
        fp32 ``[query_heads, rows, columns]``, a row for each query block that the queries touch; -inf after the
        diagonal.
    """
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    group, first = heads // kv_heads, n_k - n_q
    rows, columns = BlockIndex.rows(n_q, n_k, block), ceil_div(n_k, block)
    mass = torch.zeros(heads, rows, columns, dtype=torch.float32, device=q.device)
    at_once = block * max(1, _CELLS // (group * block * n_k))
    for start in range(first - first % block, n_k, at_once):
        begin, end = max(start, first), min(start + at_once, n_k)
        position = torch.arange(begin, end, device=q.device)
        row = position // block - first // block
        hidden = torch.arange(end, device=q.device) > position[:, None]
        for head in range(kv_heads):
            of_group = slice(head * group, (head + 1) * group)
            queries = q[begin - first : end - first, of_group].transpose(0, 1).float()
            scores = softmax.capped(queries @ k[:end, head].float().T * size**-0.5)
            weights = softmax.of(of_group, -1, 1).weights(scores.masked_fill_(hidden, float("-inf")))
            by_block = torch.nn.functional.pad(weights, (0, -end % block)).unflatten(2, (-1, block)).sum(3)
            mass[of_group, :, : by_block.shape[2]].index_add_(1, row, by_block)
    row = torch.arange(rows, device=q.device)[:, None] + first // block
    return mass.masked_fill_(torch.arange(columns, device=q.device) > row, float("-inf"))


def page_mass(q: Tensor, cache: PagedCache, page: int, softmax: Softmax = PLAIN) -> Tensor:
    """Softmax weights of a step, summed over pages and over the group.

    Args:
        q: ``[batch, query_heads, head_size]``.
        cache: The cache, with the queries' own tokens in it.
        page: Positions in a page.
        softmax: Sinks and soft cap of the model.

    Returns:
        fp32 ``[batch, kv_heads, pages]``; -inf past a sequence's end.
    """
    groups = cache.groups(cache.kv_heads * cache.capacity * cache.head_size)
    return torch.cat([_page_mass(q[rows], some, page, softmax) for rows, some in groups])


def _page_mass(q: Tensor, cache: PagedCache, page: int, softmax: Softmax) -> Tensor:
    """``page_mass`` of sequences whose keys are held at once."""
    block, offset, held = cache.locate(torch.arange(cache.capacity, device=q.device)[None])
    head = torch.arange(cache.kv_heads, device=q.device)[:, None]
    keys = cache.keys[block[:, None], offset[:, None], head].float()  # [batch, kv_heads, capacity, head_size]
    queries = q.float().view(cache.batch, cache.kv_heads, -1, cache.head_size)
    scores = softmax.capped(queries @ keys.mT * cache.head_size**-0.5)
    weights = softmax.of(slice(None), cache.kv_heads, -1).weights(
        scores.masked_fill(~held[:, None, None], float("-inf"))
    )
    weights = torch.nn.functional.pad(weights.sum(2), (0, -cache.capacity % page))
    mass = weights.unflatten(2, (-1, page)).sum(3)
    return mass.masked_fill(~held[:, None, ::page], float("-inf"))
