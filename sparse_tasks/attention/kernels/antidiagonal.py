"""XAttention's importance of blocks: sums along antidiagonals (Xu et al. 2025, section 2.1).

Torch is used on every device, since almost all work is matrix products.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_sequence, checked_scale, implementation
from sparse_tasks.attention.once import cached_result
from sparse_tasks.core.errors import UsageError

_CELLS: Final = 1 << 24  # scores of groups in memory at once: 64 MB of fp32, and as much of what comes of them


def antidiagonal_scores(
    q: Tensor, k: Tensor, *, block: int = 128, stride: int = 8, scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """The share of each key block in a query block's attention, estimated along antidiagonals.

    Positions are cut into groups of ``stride``. In the ``stride`` by ``stride`` cell of a query group and a key group
    only the antidiagonal is computed, which contains every row and every column once: ``score[a, b] = scale / stride *
    sum_i q[a * stride + stride - 1 - i] . k[b * stride + i]``. A softmax over the key groups up to the query group's
    own, ``b <= a``, turns the scores of each query group into probabilities; these are summed over the groups of a key
    block and averaged over those of a query block. Groups and blocks begin at multiples of their size; missing members
    of a group at either end of the input count as 0, and query groups without queries do not count.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        block: Positions in a block, of queries as of keys; a multiple of ``stride``.
        stride: Positions in a group; 8 or 16 in the paper. The work is 1 / stride of that for all scores.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        impl: "auto", "triton" or "torch"; all run torch.

    Returns:
        fp32 ``[query_heads, rows, columns]``: for each query block, probabilities of key blocks; a row sums to 1, and
        is 0 after the diagonal.

    Raises:
        UsageError: Shapes, types, sizes or devices do not match.
    """
    check_sequence(q, k)
    if stride < 1:
        raise UsageError("stride", stride, "has to be at least 1")
    if block < 1 or block % stride:
        raise UsageError("block", block, f"has to be a multiple of the stride, {stride}")
    scale = checked_scale(scale, q.shape[2])
    implementation("torch" if impl == "auto" else impl, q)  # checks impl
    return antidiagonal_scores_torch(q, k, block=block, stride=stride, scale=scale)


def antidiagonal_scores_torch(q: Tensor, k: Tensor, *, block: int, stride: int, scale: float) -> Tensor:
    """The computation itself, in chunks of query blocks and heads that fit into ``_CELLS``."""
    (n_q, heads, _), (n_k, kv_heads, _) = q.shape, k.shape
    first, rows = (n_k - n_q) // block, BlockIndex.rows(n_q, n_k, block)
    columns, per_block, group = ceil_div(n_k, block), block // stride, heads // kv_heads
    before = n_k - n_q - first * block  # positions of the first query block before the input
    reversed_queries = _groups(q, before, rows * block, stride).flip(2).flatten(2)
    keys = _groups(k, 0, columns * block, stride).flatten(2)
    own, number, weight, groups = _numbers(q.device, n_q, n_k, block, stride)
    out = torch.zeros(heads, rows, columns, dtype=torch.float32, device=q.device)
    cells = columns * per_block * per_block
    rows_at_once = min(rows, max(1, _CELLS // cells))
    heads_at_once = _whole_groups(_CELLS // (cells * rows_at_once), heads, group)
    for start in range(0, rows, rows_at_once):
        stop = min(start + rows_at_once, rows)
        reach = first + stop  # key blocks up to the diagonal of the last row
        chosen = slice(start * per_block, stop * per_block)
        later = number[: reach * per_block] > own[chosen]
        for head in range(0, heads, heads_at_once):
            together = slice(head, head + heads_at_once)
            kv = keys[head // group : ceil_div(head + heads_at_once, group), : reach * per_block]
            # Heads of a group are adjacent, and are multiplied with their keys in one product.
            queries = reversed_queries[together, chosen]
            scores = _product(queries.reshape(len(kv), -1, queries.shape[2]), kv).view(len(queries), *later.shape)
            shares = scores.mul_(scale / stride).masked_fill_(later, float("-inf")).softmax(-1)
            by_block = shares.view(len(queries), stop - start, per_block, reach, per_block).sum(4)
            out[together, start:stop, :reach] = (by_block * weight[start:stop]).sum(2) / groups[start:stop]
    return out


@cached_result
def _numbers(
    device: torch.device, n_q: int, n_k: int, block: int, stride: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers of groups, and which groups of the query blocks contain a query.

    Returns:
        int32 ``[query groups, 1]`` and ``[key groups]``: numbers; bool ``[rows, groups of a block, 1]`` and int64
        ``[rows, 1]``: whether a group contains a query, and how many of a block do, at least one.
    """
    first, rows, columns = (n_k - n_q) // block, BlockIndex.rows(n_q, n_k, block), ceil_div(n_k, block)
    number = torch.arange(columns * (block // stride), dtype=torch.int32, device=device)
    own = number[first * (block // stride) :, None]
    weight = ((own >= (n_k - n_q) // stride) & (own < ceil_div(n_k, stride))).view(rows, -1, 1)
    return own, number, weight, weight.sum(1)


def _whole_groups(most: int, heads: int, group: int) -> int:
    """The number of heads, at most ``most`` but at least one, that form whole groups or equal parts of one."""
    if most >= group:
        return min(heads, most // group * group)
    return next(number for number in range(max(1, most), 0, -1) if group % number == 0)


def _groups(x: Tensor, before: int, length: int, stride: int) -> Tensor:
    """``[heads, groups, stride, head_size]``: tokens in groups, with zeros before them and up to ``length``."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, before, length - before - len(x)))
    return padded.unflatten(0, (-1, stride)).permute(2, 0, 1, 3)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.mT`` of matrices in fp32; on a GPU straight from 16 bits, which needs torch 2.8 (vLLM's is newer)."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b.mT, out_dtype=torch.float32)
    return a.float() @ b.float().mT
