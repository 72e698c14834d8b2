"""FlexPrefill's choice between two patterns for each head."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import BLOCK
from sparse_tasks.attention.kernels.mass import mass_from
from sparse_tasks.attention.kernels.pooling import mean_pool
from sparse_tasks.attention.kernels.window_scores import window_scores
from sparse_tasks.attention.once import cached_result
from sparse_tasks.attention.ops.coverage import after_diagonal, always_read, blocks_before
from sparse_tasks.attention.ops.means import products_of_means


def flex_mass(q: Tensor, k: Tensor, *, tau: float, first: bool, least: int, impl: str) -> Tensor:
    """The mass of each block (see ``mass_from``), by means if a head is query-aware, else by lines.

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
    lines = _by_block(torch.stack((vertical, slash)))
    heads, blocks = lines.shape[1:]
    by_key, by_distance = mass_from(lines, _first_lines(q.device, heads, blocks, first), least, impl=impl)
    mass = torch.maximum(by_key[:, None], by_distance[:, blocks_before(q.device, n_q, n_k, BLOCK)])
    if tau == 0:
        return mass
    of_last, of_all = mean_pool(q[-BLOCK:], BLOCK, impl=impl), mean_pool(q, BLOCK, offset=n_k - n_q, impl=impl)
    products = products_of_means(torch.cat((of_last, of_all), 1), mean_pool(k, BLOCK, impl=impl))
    aware = _distance(lines[0], products[:, 0].softmax(1)) < tau
    weights = products[:, 1:].masked_fill(after_diagonal(q.device, n_q, n_k, BLOCK), float("-inf")).softmax(2)
    by_means = mass_from(weights, always_read(q.device, n_q, n_k, BLOCK, first), least, impl=impl)
    return torch.where(aware[:, None, None], by_means, mass)


def _by_block(scores: Tensor) -> Tensor:
    """fp32 ``[..., blocks]``, which sums to 1: sums of ``[..., n_k]`` over blocks."""
    padded = torch.nn.functional.pad(scores, (0, -scores.shape[-1] % BLOCK))
    sums = padded.unflatten(-1, (-1, BLOCK)).sum(-1)
    return sums / sums.sum(-1, keepdim=True)


@cached_result
def _first_lines(device: torch.device, heads: int, blocks: int, first: bool) -> Tensor:
    """Bool ``[2, heads, blocks]``: True for the shortest distances, and the first keys if ``first``."""
    found = torch.zeros(2, heads, blocks, dtype=torch.bool, device=device)
    found[0 if first else 1 :, :, 0] = True
    return found


def _distance(p: Tensor, q: Tensor) -> Tensor:
    """The root of the Jensen-Shannon divergence, in nats, of distributions ``[heads, blocks]``."""
    both = torch.stack((p, q))
    divergence = (both.xlogy(both) - both.xlogy(both.mean(0))).sum(2).sum(0) / 2
    return divergence.clamp_min(0).sqrt()
