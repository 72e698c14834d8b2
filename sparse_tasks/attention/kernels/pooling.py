"""Mean pooling of blocks of queries or keys."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_floats, implementation
from sparse_tasks.core.errors import UsageError


def mean_pool(x: Tensor, block: int, *, offset: int = 0, impl: str = "auto") -> Tensor:
    """The mean of the tokens of each block, accumulated in fp32 (MInference, Jiang et al. 2024, section 3.2).

    Args:
        x: ``[n, heads, head_size]``, queries or keys; may be a strided view.
        block: Positions in a block, at least 1. Blocks begin at multiples of it.
        offset: Position of the first token of ``x``. So the first and the last block may be partial; their mean is over
            the tokens present.
        impl: "auto", "triton" or "torch".

    Returns:
        ``[heads, blocks, head_size]`` in x's dtype, for the blocks from ``offset // block`` on.

    Raises:
        UsageError: Shapes, types or sizes do not match.
    """
    if x.ndim != 3 or 0 in x.shape:
        raise UsageError("x", tuple(x.shape), "has to be [tokens, heads, head_size], none of them 0")
    check_floats(x=x)
    if block < 1:
        raise UsageError("block", block, "has to be at least 1")
    if offset < 0:
        raise UsageError("offset", offset, "has to be at least 0: the position of the first token")
    if implementation(impl, x) == "torch":
        return mean_pool_torch(x, block, offset=offset)
    from sparse_tasks.attention.kernels.triton.pooling import mean_pool_triton

    return mean_pool_triton(x, block, offset=offset)


def mean_pool_torch(x: Tensor, block: int, *, offset: int = 0) -> Tensor:
    """Torch twin of ``mean_pool``: pad to whole blocks, sum, divide by the number of tokens."""
    n, heads, size = x.shape
    blocks = ceil_div(offset + n, block) - offset // block
    before = offset % block
    padded = torch.nn.functional.pad(x.float(), (0, 0, 0, 0, before, blocks * block - before - n))
    there = (torch.arange(blocks * block, device=x.device) - before).clamp(-1, n)
    tokens = ((there >= 0) & (there < n)).view(blocks, block).sum(1)
    sums = padded.view(blocks, block, heads, size).sum(1)
    return (sums / tokens[:, None, None]).to(x.dtype).transpose(0, 1).contiguous()
