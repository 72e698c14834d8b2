"""Block means of queries and keys, and how representative they are."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.pooling import mean_pool


def products_of_means(q_pool: Tensor, k_pool: Tensor) -> Tensor:
    """fp32 ``[heads, rows, columns]``: scaled products of pooled queries and keys, ``[heads, blocks, head_size]``."""
    (heads, rows, size), (kv_heads, columns, _) = q_pool.shape, k_pool.shape
    # Heads of a group are adjacent, and are multiplied with their keys in one product.
    products = q_pool.float().view(kv_heads, -1, size) @ k_pool.float().mT
    return products.mul_(size**-0.5).view(heads, rows, columns)


def self_similarity(x: Tensor, block: int, *, offset: int = 0, impl: str = "auto") -> Tensor:
    """Mean cosine of all pairs of a block, self-pairs included: the squared length of the mean direction.

    Args:
        x: ``[n, heads, head_size]``, queries or keys.
        block: Positions in a block. Blocks begin at multiples of it.
        offset: Position of the first token of ``x``.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[heads, blocks]``, for the blocks from ``offset // block`` on.
    """
    directions = torch.nn.functional.normalize(x.float(), dim=2)
    return mean_pool(directions, block, offset=offset, impl=impl).square().sum(2)
