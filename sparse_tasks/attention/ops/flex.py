"""FlexPrefill's choice between two patterns for each head."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.interactions import BLOCK
from sparse_tasks.attention.kernels.pooling import mean_pool
from sparse_tasks.attention.kernels.window_scores import window_scores
from sparse_tasks.attention.ops.pooled import mass_from


def flex_mass(q: Tensor, k: Tensor, *, tau: float, first: bool, least: int, impl: str) -> Tensor:
    """The mass of each block (see ``mass_from``), by means where a head is query-aware, else by lines.

    Args:
        q: ``[n_q, query_heads, head_size]``.
        k: ``[n_k, kv_heads, head_size]``.
        tau: Distance below which a head is query-aware.
        first: Whether the first key block is always read.
        least: Blocks or lines that are always taken.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[query_heads, rows, columns]``.
    """
    n_q, n_k = len(q), len(k)
    vertical, slash = window_scores(q, k, BLOCK, impl=impl)
    if slash is None:
        raise RuntimeError("window_scores gave no sums by distance")
    verticals, slashes = _by_block(vertical), _by_block(slash)
    mass = _mass_of_lines(verticals, slashes, BlockIndex.rows(n_q, n_k, BLOCK), first, least)
    if tau == 0:
        return mass
    k_pool = mean_pool(k, BLOCK, impl=impl)
    expected = _products(mean_pool(q[-BLOCK:], BLOCK, impl=impl), k_pool).softmax(2)
    aware = _distance(verticals, expected[:, 0]) < tau
    products = _products(mean_pool(q, BLOCK, offset=n_k - n_q, impl=impl), k_pool)
    row, column = _grid(products)
    weights = products.masked_fill(column > row, float("-inf")).softmax(2)
    by_means = mass_from(weights, (column == row) | ((column == 0) & first), least)
    return torch.where(aware[:, None, None], by_means, mass)


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
